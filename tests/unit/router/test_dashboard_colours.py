"""The dashboard's colours: readable in both themes, and stages told apart by colour-blind eyes too."""

from __future__ import annotations

import re
from itertools import combinations
from math import dist
from pathlib import Path

import pytest

CSS = (Path(__file__).parents[3] / "src" / "tercet" / "router" / "dashboard" / "static" / "style.css").read_text()
Rgb = tuple[float, float, float]

TEXTS = ("text", "muted", "accent", "good", "bad", "warn")
MARKS = ("encode", "prefill", "decode", "handoff", "queue", "stream")
GROUNDS = {
    "page": TEXTS,
    "surface": TEXTS,
    "raised": TEXTS,
    "bad-wash": ("text", "bad", "muted"),
    "warn-wash": ("text", "warn"),
    "track": ("text",),
    "accent": ("on-accent",),
    "bad": ("surface",),
}
"""What is written on what, filled buttons last."""
AA_TEXT, AA_MARK = 4.5, 3.0

# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
BLIND = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
APART = 12.0
"""Of CIE76: several times what can just be told apart side by side."""


def variables(selector: str) -> dict[str, str]:
    block = CSS[CSS.index(selector) :]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block[: block.index("}")]))


THEMES = {"light": variables(":root {"), "dark": variables(":root[data-theme=dark] {")}


def linear(colour: str) -> Rgb:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return r, g, b


def contrast(one: str, other: str) -> float:
    bright, dark = sorted(
        (0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(one), linear(other))), reverse=True
    )
    return (bright + 0.05) / (dark + 0.05)


def lab(colour: Rgb) -> Rgb:
    r, g, b = (min(1.0, max(0.0, c)) for c in colour)
    x, y, z = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    fx, fy, fz = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def distance(one: Rgb, other: Rgb) -> float:
    return dist(lab(one), lab(other))


def seen(colour: str, blindness: str) -> Rgb:
    channels = linear(colour)
    r, g, b = (sum(m * c for m, c in zip(row, channels, strict=True)) for row in BLIND[blindness])
    return r, g, b


def test_the_system_theme_and_the_button_give_the_same_dark() -> None:
    assert variables(":root:not([data-theme=light]) {") == THEMES["dark"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(theme: str) -> None:
    inks = THEMES[theme]
    pairs = [(ink, ground, AA_TEXT) for ground, texts in GROUNDS.items() for ink in texts]
    pairs += [(mark, "surface", AA_MARK) for mark in MARKS]
    ratios = {(ink, ground): (contrast(inks[ink], inks[ground]), least) for ink, ground, least in pairs}
    assert {pair: ratio for pair, (ratio, least) in ratios.items() if ratio < least} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("blindness", list(BLIND))
def test_colour_blind_eyes_tell_stages_apart(theme: str, blindness: str) -> None:
    inks = THEMES[theme]
    near = {
        (a, b): round(distance(seen(inks[a], blindness), seen(inks[b], blindness)), 1)
        for a, b in combinations(MARKS, 2)
        if distance(seen(inks[a], blindness), seen(inks[b], blindness)) < APART
    }
    assert near == {}
