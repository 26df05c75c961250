"""One way to use the GPUs: how many workers of each role, on how many GPUs each, routed by which mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tercet.core.errors import UsageError
from tercet.core.stage import Mode

ALWAYS = 1_000_000
PPD_THRESHOLDS = (512, ALWAYS)
"""New tokens from which on a later turn goes through P: the usual bound, and never."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """`encode`, `prefill`, `decode` and `whole` count the workers E, P, D and A; each is `tp` GPUs.

    `ppd_threshold` is None for modes that do not ask for it.
    """

    mode: Mode
    tp: int = 1
    encode: int = 0
    prefill: int = 0
    decode: int = 0
    whole: int = 0
    ppd_threshold: int | None = None

    @property
    def form(self) -> str:
        """Return for instance 2E1P1D."""
        counts = zip("EPDA", (self.encode, self.prefill, self.decode, self.whole), strict=True)
        return "".join(f"{count}{letter}" for letter, count in counts if count)

    @property
    def workers(self) -> int:
        """All workers together."""
        return self.encode + self.prefill + self.decode + self.whole

    @property
    def gpus(self) -> int:
        """All GPUs together."""
        return self.workers * self.tp

    @property
    def label(self) -> str:
        """What tables and charts call it: `3P5D pd`, `4A replicated TP2`, `2P2D ppd always`."""
        always = " always" if self.ppd_threshold == ALWAYS else ""
        return f"{self.form} {self.mode}{always}" + (f" TP{self.tp}" if self.tp > 1 else "")

    @property
    def hybrid(self) -> bool:
        """True when A workers answer beside pairs of P and D."""
        return self.whole > 0 and self.decode > 0

    @property
    def family(self) -> tuple[Mode, int, bool]:
        """What it shares with those that only differ in how many workers have which role."""
        return self.mode, self.tp, self.hybrid


def architectures(
    gpus: int, tps: Iterable[int], *, turns: bool, pictures: bool, modes: Iterable[Mode] = ()
) -> list[Architecture]:
    """Return every architecture that uses all of `gpus` GPUs.

    `turns` when requests share prefixes, of earlier turns or of others: then affinity and `ppd` are ways, too.
    `pictures` adds encode workers. `modes` leaves only these. Raises UsageError when nothing is left.
    """
    wanted = set(modes)
    found = [each for tp in tps for each in _of(gpus, tp, turns, pictures) if not wanted or each.mode in wanted]
    if not found:
        told = f" in mode {', '.join(sorted(wanted))}" if wanted else ""
        raise UsageError(f"no architecture uses all of {gpus} GPUs{told}: give another number of GPUs, --tp or --modes")
    return found


def _of(gpus: int, tp: int, turns: bool, pictures: bool) -> Iterator[Architecture]:
    count, rest = divmod(gpus, tp)
    if rest or not count:
        return
    yield Architecture(Mode.REPLICATED if turns and count > 1 else Mode.AGGREGATED, tp, whole=count)
    for prefill in range(1, count):
        for decode in range(1, count - prefill + 1):
            yield from _split(Mode.PD, Mode.PPD, tp, 0, prefill, decode, turns, count - prefill - decode)
    if not pictures:
        return
    for encode in range(1, count):
        yield Architecture(Mode.EPD, tp, encode=encode, whole=count - encode)
        for prefill in range(1, count - encode):
            yield from _split(Mode.EPD, Mode.EPPD, tp, encode, prefill, count - encode - prefill, turns)


def _split(
    each_turn: Mode, first_turn: Mode, tp: int, encode: int, prefill: int, decode: int, turns: bool, whole: int = 0
) -> Iterator[Architecture]:
    yield Architecture(each_turn, tp, encode, prefill, decode, whole)
    for threshold in PPD_THRESHOLDS if turns else ():
        yield Architecture(first_turn, tp, encode, prefill, decode, whole, ppd_threshold=threshold)
