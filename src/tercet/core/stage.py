"""Stages, modes and roles."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """What a worker can do to a request."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"


class Mode(StrEnum):
    """The rule that sends requests through a topology."""

    AGGREGATED = "aggregated"
    REPLICATED = "replicated"
    PD = "pd"
    PPD = "ppd"
    EPD = "epd"
    EPPD = "eppd"

    @property
    def encodes_apart(self) -> bool:
        """True when pictures are encoded by encode workers, not by the worker that prefills."""
        return self in (Mode.EPD, Mode.EPPD)


def role_letter(stages: frozenset[Stage]) -> str:
    """Return the letter of the short form: E, P, D, or A for a worker that prefills and decodes."""
    if Stage.PREFILL in stages and Stage.DECODE in stages:
        return "A"
    for stage, letter in ((Stage.DECODE, "D"), (Stage.PREFILL, "P"), (Stage.ENCODE, "E")):
        if stage in stages:
            return letter
    raise ValueError("a worker needs at least one stage")


ROLE_STAGES: dict[str, frozenset[Stage]] = {
    "E": frozenset({Stage.ENCODE}),
    "P": frozenset({Stage.PREFILL}),
    "D": frozenset({Stage.DECODE}),
    "A": frozenset({Stage.PREFILL, Stage.DECODE}),
}

ROLE_NAMES: dict[str, str] = {"E": "encode", "P": "prefill", "D": "decode", "A": "worker"}
