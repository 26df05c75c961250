"""Synthetic pictures: one to three equal shapes of one colour on a plain ground. Seeded, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (215, 30, 35),
    "blue": (35, 65, 220),
    "green": (35, 155, 55),
    "yellow": (245, 220, 30),
    "orange": (250, 135, 15),
    "purple": (125, 40, 165),
    "black": (15, 15, 15),
    "pink": (250, 140, 190),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond")
COUNTS = ("one", "two", "three")
PLACES = {
    "on the left": (0.28, 0.5),
    "on the right": (0.72, 0.5),
    "at the top": (0.5, 0.28),
    "at the bottom": (0.5, 0.72),
    "in the middle": (0.5, 0.5),
}
GROUNDS = ((255, 255, 255), (245, 240, 225), (225, 235, 245), (205, 205, 205), (215, 240, 215), (235, 220, 240))

_OVERSAMPLING = 3  # drawn larger, then reduced: Pillow's polygons have no soft edges


@dataclass(frozen=True, slots=True)
class Facts:
    """What a picture shows. `count` is in words, `place` one of PLACES."""

    shape: str
    colour: str
    count: str
    place: str

    @property
    def noun(self) -> str:
        """The shape's name, in the plural where there are several."""
        return self.shape if self.count == "one" else f"{self.shape}s"


def picture_stream(seed: int, size: tuple[int, int] | None = None) -> Iterator[tuple[Image.Image, Facts]]:
    """Yield pictures without end; `size` (width, height) in pixels, by default any from 96 to 640 on a side."""
    rng = np.random.default_rng(seed)
    shapes, colours, places = list(SHAPES), list(COLOURS), list(PLACES)
    while True:
        facts = Facts(
            shape=shapes[rng.integers(len(shapes))],
            colour=colours[rng.integers(len(colours))],
            count=COUNTS[rng.choice(3, p=(0.6, 0.2, 0.2))],
            place=places[rng.integers(len(places))],
        )
        yield draw(facts, rng, size or _any_size(rng)), facts


def draw(facts: Facts, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draw what `facts` say, everything else by chance: exact place, sizes, angles, tones, ground, noise."""
    width, height = size
    short = min(width, height)
    ground = np.array(GROUNDS[rng.integers(len(GROUNDS))]) + rng.integers(-8, 9, 3)
    tone = np.array(COLOURS[facts.colour]) + rng.integers(-14, 15, 3)
    canvas = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), _rgb(ground))
    pen = ImageDraw.Draw(canvas)
    count = COUNTS.index(facts.count) + 1
    radius = short * rng.uniform(0.17, 0.24) if count == 1 else short * rng.uniform(0.105, 0.13)
    x, y = PLACES[facts.place]
    centre = (width * (x + rng.uniform(-0.035, 0.035)), height * (y + rng.uniform(-0.035, 0.035)))
    for dx, dy in _arrangement(count, rng, across=facts.place in ("at the top", "at the bottom", "in the middle")):
        place = (centre[0] + dx * radius, centre[1] + dy * radius)
        outline = _outline(facts.shape, rng.uniform(-0.22, 0.22))
        scale = radius * rng.uniform(0.92, 1.08)
        points = [
            ((place[0] + px * scale) * _OVERSAMPLING, (place[1] + py * scale) * _OVERSAMPLING) for px, py in outline
        ]
        pen.polygon(points, fill=_rgb(tone))
    canvas = canvas.reduce(_OVERSAMPLING)
    noise = rng.integers(-6, 7, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(canvas).astype(np.int16) + noise, 0, 255).astype(np.uint8))


def _any_size(rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(96, 641))
    return width, int(np.clip(width * rng.uniform(0.75, 1.33), 96, 640))


def _arrangement(count: int, rng: np.random.Generator, *, across: bool) -> list[tuple[float, float]]:
    """Centres of the shapes in radii around the group's: a row or a column that does not touch."""
    gap = rng.uniform(2.35, 2.6)
    line = [(i - (count - 1) / 2) * gap for i in range(count)]
    jitter = rng.uniform(-0.15, 0.15, count)
    return [(a, j) if across else (j, a) for a, j in zip(line, jitter, strict=True)]


def _outline(shape: str, turn: float) -> list[tuple[float, float]]:
    """Corners around the origin within a radius of about 1; y points down."""
    if shape == "circle":
        corners = [_polar(0.93, 2 * math.pi * i / 48) for i in range(48)]
    elif shape == "square":
        corners = [_polar(1.12, math.pi / 4 + math.pi / 2 * i) for i in range(4)]
    elif shape == "triangle":
        corners = [_polar(1.12, -math.pi / 2 + 2 * math.pi / 3 * i) for i in range(3)]
    elif shape == "star":
        corners = [_polar(1.12 if i % 2 == 0 else 0.46, -math.pi / 2 + math.pi / 5 * i) for i in range(10)]
    elif shape == "diamond":
        corners = [(0.0, -1.18), (0.78, 0.0), (0.0, 1.18), (-0.78, 0.0)]
    else:
        corners = []
        for i in range(48):
            t = 2 * math.pi * i / 48
            x = 16 * math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            corners.append((x / 16, -(y + 2) / 16))
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def _polar(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)


def _rgb(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in np.clip(values, 0, 255))
    return red, green, blue
