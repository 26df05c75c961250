"""Colours: one light and one dark value for every thing drawn, told apart by colour-blind eyes and by shape too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ink:
    """A colour in both themes. Charts are drawn in the light one; the page turns it into the CSS variable `--name`."""

    name: str
    light: str
    dark: str


TEXT = Ink("text", "#1b2430", "#e8ecf2")
MUTED = Ink("muted", "#5a6573", "#a3adba")
GRID = Ink("grid", "#e4e8ed", "#2c3644")
AXIS = Ink("axis", "#9aa5b1", "#566273")
SURFACE = Ink("surface", "#ffffff", "#161d27")
BAD = Ink("bad", "#c0182f", "#ff7a88")
ZONE = Ink("zone", "#eceff3", "#222c39")
FRONT = Ink("front", "#b6bec8", "#4a5666")

# After Okabe and Ito, darkened for white paper and lightened for a dark page.
SERIES = (
    Ink("s0", "#0069a8", "#5cb3f2"),
    Ink("s1", "#cf5500", "#ff9457"),
    Ink("s2", "#00855f", "#35cf9f"),
    Ink("s3", "#6d5a4e", "#c9b6a8"),
    Ink("s4", "#a8327f", "#f08ccb"),
    Ink("s5", "#8f6c00", "#f0cb52"),
    Ink("s6", "#2596b5", "#86dcf3"),
    Ink("s7", "#5b47b8", "#b3a5ff"),
)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
SLOT_OF_MODE = {"replicated": 0, "pd": 1, "ppd": 2, "aggregated": 3, "epd": 4, "eppd": 5}

HOPS = {
    "queue": Ink("h0", "#98a2ae", "#8390a1"),
    "encode": Ink("h1", "#b7589a", "#d983bf"),
    "prefill": Ink("h2", "#2f7fc0", "#5fa9e6"),
    "handoff": Ink("h3", "#d99a00", "#f2bf45"),
    "other": Ink("h5", "#74685f", "#b5a79b"),
    "decode": Ink("h4", "#3f9f79", "#57c79a"),
}

INKS = (TEXT, MUTED, GRID, AXIS, SURFACE, BAD, ZONE, FRONT, *SERIES, *HOPS.values())


@dataclass(frozen=True, slots=True)
class Look:
    """How one architecture is drawn everywhere."""

    name: str
    ink: Ink
    shape: str


def looks(labels: Sequence[str]) -> tuple[Look, ...]:
    """Give every architecture its colour and shape; one named like a mode always has that mode's.

    Past eight they repeat: shapes and names must tell them apart then.
    """
    taken = {label: SLOT_OF_MODE[label] for label in labels if label in SLOT_OF_MODE}
    free = [slot for slot in range(len(SERIES)) if slot not in taken.values()] or list(range(len(SERIES)))
    others = [label for label in labels if label not in taken]
    slots = taken | {label: free[i % len(free)] for i, label in enumerate(others)}
    return tuple(Look(label, SERIES[slots[label]], SHAPES[slots[label]]) for label in labels)
