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


TellSpent = Callable[["Quota", int, int], None]
"""Told of a key's use: requests and tokens that it spent now."""


class Quota:
    """One key's use of its limits. Where several processes serve it, `tell` is told what is spent in this one."""

    def __init__(self, key: ApiKey, now: float, tell: TellSpent | None = None) -> None:
        self.in_flight = 0
        self._tell = tell
        self._elsewhere: dict[int, int] = {}
        self.follow(key, now)

    def follow(self, key: ApiKey, now: float) -> None:
        """Hold to the limits of `key` from now on, none of it spent; what is under way still counts."""
        self.key = key
        self._requests = None if key.requests_per_minute is None else _Bucket(key.requests_per_minute, now)
        self._tokens = None if key.tokens_per_minute is None else _Bucket(key.tokens_per_minute, now)

    def enter(self, now: float) -> None:
        """Count a request in. Raises RequestError 429, with the time after which it is worth another try."""
        key = self.key
        if key.concurrent is not None and self.in_flight + sum(self._elsewhere.values()) >= key.concurrent:
            raise _too_much(f"{key.concurrent} requests at once", 1.0)
        # Tokens are known only afterwards: as long as there is one left, a request may overdraw them.
        if self._tokens is not None and (wait := self._tokens.wait_s(1, now)):
            raise _too_much(f"{key.tokens_per_minute} tokens a minute", wait)
        if self._requests is not None:
            if wait := self._requests.wait_s(1, now):
                raise _too_much(f"{key.requests_per_minute} requests a minute", wait)
            self._requests.take(1)
        self.in_flight += 1
        if self._tell is not None:
            self._tell(self, 1, 0)

    def leave(self, tokens: int) -> None:
        """Count it out, with the tokens of prompt and answer."""
        self.in_flight -= 1
        if self._tokens is not None:
            self._tokens.take(tokens)
        if self._tell is not None:
            self._tell(self, 0, tokens)

    def told(self, process: int, requests: int, tokens: int, in_flight: int, now: float) -> None:
        """Count what was spent in another process, which has so many requests under way."""
        self._elsewhere[process] = in_flight
        for bucket, amount in ((self._requests, requests), (self._tokens, tokens)):
            if bucket is not None and amount:
                bucket.wait_s(0, now)
                bucket.take(amount)

    def withdraw(self, process: int) -> None:
        """A process is gone, and its requests with it."""
        self._elsewhere.pop(process, None)


class Quotas:
    """The quotas of all keys that have limits; a key whose limits changed starts anew."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.tell: TellSpent | None = None
        self._quotas: dict[str, Quota] = {}

    def enter(self, key: ApiKey) -> Quota | None:
        """Count a request of `key` in; None where there is nothing to count. Raises RequestError 429."""
        if not key.limited:
            return None
        now = self._clock()
        quota = self._of(key, now)
        quota.enter(now)
        return quota

    def told(self, key: ApiKey, process: int, requests: int, tokens: int, in_flight: int) -> None:
        """Count what was spent of `key` in another process, which has so many of its requests under way."""
        if key.limited:
            now = self._clock()
            self._of(key, now).told(process, requests, tokens, in_flight, now)

    def withdraw(self, process: int) -> None:
        """A process is gone, and its requests with it."""
        for quota in self._quotas.values():
            quota.withdraw(process)

    def _of(self, key: ApiKey, now: float) -> Quota:
        quota = self._quotas.get(key.digest)
        if quota is None:
            quota = self._quotas[key.digest] = Quota(key, now, self.tell)
        elif quota.key != key:
            quota.follow(key, now)
        return quota

    def keep(self, digests: set[str]) -> None:
        """Forget the keys that are no more."""
        self._quotas = {digest: quota for digest, quota in self._quotas.items() if digest in digests}


def _too_much(limit: str, wait_s: float) -> RequestError:
    return RequestError(
        429, f"this API key is limited to {limit}", code="rate_limit_exceeded", retry_after_s=max(1.0, wait_s)
    )
