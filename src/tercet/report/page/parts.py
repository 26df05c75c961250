"""What a page is made of: sections of words, pictures and tables. No HTML here but the pictures' SVG."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Value:
    """A table's cell. `note` is written smaller after the text; `kind` is "text", "number", "good", "bad" or "head"."""

    text: str
    note: str = ""
    kind: str = "number"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. `folded` ones are opened by a click: they repeat a picture in numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture with its caption."""

    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: a name, the CSS variable of its colour, and the shape of its points ("bar" for none)."""

    name: str
    ink: str
    shape: str


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page. `anchor` is its id; `words` are paragraphs before the pictures, `lines` a list after."""

    anchor: str
    title: str
    nav: str
    words: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    panels: tuple[Panel, ...] = ()
    lines: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """What is said of one architecture."""

    key: Key
    about: str
    useful: tuple[str, ...]
    not_useful: tuple[str, ...]
    sensitivity: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The whole page."""

    title: str
    verdict: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    recommendations: tuple[Grid, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]
    origin: tuple[Grid, ...]
