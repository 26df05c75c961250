"""What API keys may still ask for: requests and tokens a minute, and requests at once."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from tercet.core.api_keys import ApiKey
from tercet.core.errors import RequestError


class _Bucket:
    """Fills up within a minute, to a minute's worth. May be overdrawn: then it is empty for longer."""

    __slots__ = ("_at", "_level", "_limit")

    def __init__(self, limit: int, now: float) -> None:
        self._limit, self._level, self._at = limit, float(limit), now

    def wait_s(self, wanted: float, now: float) -> float:
        """Return the seconds until `wanted` is in it; 0 when it is."""
        self._level = min(self._limit, self._level + (now - self._at) * self._limit / 60)
        self._at = now
        return max(0.0, (wanted - self._level) * 60 / self._limit)

    def take(self, amount: float) -> None:
        """Take some out."""
        self._level -= amount


class Quota:
    """One key's use of its limits."""

    def __init__(self, key: ApiKey, now: float) -> None:
        self.key = key
        self.in_flight = 0
        self._requests = None if key.requests_per_minute is None else _Bucket(key.requests_per_minute, now)
        self._tokens = None if key.tokens_per_minute is None else _Bucket(key.tokens_per_minute, now)

    def enter(self, now: float) -> None:
        """Count a request in. Raises RequestError 429, with the time after which it is worth another try."""
        key = self.key
        if key.concurrent is not None and self.in_flight >= key.concurrent:
            raise _too_much(f"{key.concurrent} requests at once", 1.0)
        # Tokens are known only afterwards: as long as there is one left, a request may overdraw them.
        if self._tokens is not None and (wait := self._tokens.wait_s(1, now)):
            raise _too_much(f"{key.tokens_per_minute} tokens a minute", wait)
        if self._requests is not None:
            if wait := self._requests.wait_s(1, now):
                raise _too_much(f"{key.requests_per_minute} requests a minute", wait)
            self._requests.take(1)
        self.in_flight += 1

    def leave(self, tokens: int) -> None:
        """Count it out, with the tokens of prompt and answer."""
        self.in_flight -= 1
        if self._tokens is not None:
            self._tokens.take(tokens)


class Quotas:
    """The quotas of all keys that have limits; a key whose limits changed starts anew."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._quotas: dict[str, Quota] = {}

    def enter(self, key: ApiKey) -> Quota | None:
        """Count a request of `key` in; None where there is nothing to count. Raises RequestError 429."""
        if not key.limited:
            return None
        now = self._clock()
        quota = self._quotas.get(key.digest)
        if quota is None or quota.key != key:
            quota = self._quotas[key.digest] = Quota(key, now)
        quota.enter(now)
        return quota

    def keep(self, digests: set[str]) -> None:
        """Forget the keys that are no more."""
        self._quotas = {digest: quota for digest, quota in self._quotas.items() if digest in digests}


def _too_much(limit: str, wait_s: float) -> RequestError:
    return RequestError(
        429, f"this API key is limited to {limit}", code="rate_limit_exceeded", retry_after_s=max(1.0, wait_s)
    )
