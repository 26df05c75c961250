"""The page's document to HTML: everything inline, so that one file is all there is."""

from __future__ import annotations

from importlib import resources

import jinja2
from markupsafe import Markup

from tercet.report.charts.palette import INKS
from tercet.report.page.parts import Document

SHAPES = {
    "bar": "M1,3h12v8h-12Z",
    "circle": "M7,2.2a4.8,4.8 0 1,1 0,9.6a4.8,4.8 0 1,1 0,-9.6Z",
    "square": "M2.6,2.6h8.8v8.8h-8.8Z",
    "triangle-up": "M7,1.8L12.6,11.6H1.4Z",
    "triangle-down": "M7,12.2L12.6,2.4H1.4Z",
    "triangle-right": "M12.2,7L2.4,12.6V1.4Z",
    "triangle-left": "M1.8,7L11.6,12.6V1.4Z",
    "diamond": "M7,1L12.4,7L7,13L1.6,7Z",
    "cross": "M5.2,1.6h3.6v3.6h3.6v3.6h-3.6v3.6h-3.6v-3.6h-3.6v-3.6h3.6Z",
}
"""Paths of a legend's symbols in a box of 14 by 14."""


def to_html(document: Document, files: tuple[str, ...]) -> str:
    """Return the page. `files` are names of files beside it. What results files say is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(
        page=document,
        files=files,
        style=Markup(_read("style.css")),
        script=Markup(_read("script.js")),
        light=Markup(_variables("light")),
        dark=Markup(_variables("dark")),
        shapes=SHAPES,
        svg=Markup,
    )


def _variables(theme: str) -> str:
    return "".join(f"--{ink.name}:{ink.light if theme == 'light' else ink.dark};" for ink in INKS)


def _read(name: str) -> str:
    return resources.files("tercet.report.page").joinpath(name).read_text(encoding="utf-8")
