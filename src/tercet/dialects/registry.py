"""The dialects by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tercet.core.errors import UsageError
from tercet.dialects.protocol import Dialect
from tercet.dialects.sglang import SglangDialect
from tercet.dialects.tercet import TercetDialect
from tercet.dialects.trtllm import TrtllmDialect
from tercet.dialects.vllm import VllmDialect
from tercet.dialects.vllm_connectors import CONNECTORS

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (TercetDialect(), VllmDialect(), SglangDialect(), TrtllmDialect())
}


def dialect_named(name: str) -> Dialect:
    """Return the dialect called `name`. Raises UsageError that lists the known ones."""
    try:
        return DIALECTS[name]
    except KeyError:
        raise UsageError(f"unknown dialect {name!r}: choose one of {', '.join(DIALECTS)}") from None


def dialect_for(
    name: str, bootstrap_ports: Mapping[str, int], connector: str = "nixl", tokenise_once: bool = False
) -> Dialect:
    """Return the dialect called `name` for these workers: their bootstrap ports by URL, where one is given, which may
    become more or fewer later; and what hands KV on between those of vLLM. Raises UsageError."""
    dialect = dialect_named(name)
    if connector not in CONNECTORS:
        raise UsageError(f"unknown KV connector {connector!r}: choose one of {', '.join(CONNECTORS)}")
    if connector == "p2p-nccl" and tokenise_once:
        raise UsageError("--tokenise-once needs a connector with tickets: P2P-NCCL's D is told nothing of P's answer")
    if isinstance(dialect, VllmDialect) and (connector != "nixl" or not bootstrap_ports):
        return replace(dialect, connector=connector, ports=bootstrap_ports, tokenise_once=tokenise_once)
    if connector != "nixl" or tokenise_once:
        raise UsageError(f"--kv-connector and --tokenise-once are for workers of vllm, not of {name}")
    if isinstance(dialect, SglangDialect):
        return replace(dialect, bootstrap_ports=bootstrap_ports)
    if bootstrap_ports:
        raise UsageError(f"the dialect {name} knows no bootstrap ports: leave #bootstrap=PORT out")
    return dialect
