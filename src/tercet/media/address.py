"""Which addresses a stranger's URL may lead to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")
_METADATA = IPv4Address("168.63.129.16")
"""Azure's; the other clouds' metadata services are on link-local, private or shared addresses, or those below."""
_PROTOCOLS = IPv4Network("192.0.0.0/24")
"""Nobody's on the internet, and Oracle's older metadata service; Python 3.11 calls all but a few of them global."""


def is_public(address: str) -> bool:
    """True for an address of the open internet; False for this machine, its networks, and cloud metadata services.

    An IPv6 address that only wraps an IPv4 one (mapped, NAT64, 6to4, Teredo) is judged by that.
    """
    found = ip_address(address.partition("%")[0])
    inner = _wrapped(found) if isinstance(found, IPv6Address) else None
    if inner is not None:
        found = inner
    if found in _PROTOCOLS or (isinstance(found, IPv6Address) and found.is_site_local):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved and found != _METADATA


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
