"""Charts to SVG that follows the page's theme, and to PNG files."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import vl_convert

from tercet.report.charts.frame import configured
from tercet.report.charts.palette import INKS, SURFACE

PNG_SCALE = 2.0

_DROPPED = re.compile(
    r' (?:font-family="[^"]*"|xmlns:xlink="[^"]*"|version="1\.1"|class="(?!marks)[^"]*"|pointer-events="none"'
    r'|stroke-miterlimit="[^"]*"|opacity="1"|stroke-width="1"|aria-roledescription="[^"]*"|stroke="transparent"'
    r'|font-weight="normal"|font-style="normal"|role="graphics-object")'
)
_GEOMETRY = re.compile(r'(?<= )(?:d|transform|x|y|x1|x2|y1|y2|width|height|font-size|viewBox)="[^"]*"')
_NUMBER = re.compile(r"\d+\.\d{2,}")
_EMPTY_GROUP = re.compile(r"<g(?: [^<>]*)?></g>|<path[^<>]* d=\"\"[^<>]*/>|<path[^<>]*display=\"none\"[^<>]*/>")
_CLIP = re.compile(r'((?:id="|url\(#))clip(\d+)')
"""A clip's name and its uses: every picture of a page needs names of its own."""

_BACKGROUND = re.compile(r'<path aria-hidden="true" d="M[^"]*h0v0h0Z"/>')


def to_svg(chart: Any, label: str) -> str:
    """Return a chart as an `<svg>` element named `label`, with CSS variables for colours and nothing said twice."""
    svg = vl_convert.vegalite_to_svg(configured(chart))
    for ink in INKS:
        svg = re.sub(re.escape(ink.light) + r"\b", f"var(--{ink.name})", svg, flags=re.IGNORECASE)
    svg = _DROPPED.sub("", svg)
    svg = _BACKGROUND.sub("", svg)
    svg = _GEOMETRY.sub(lambda place: _NUMBER.sub(_rounded, place[0]), svg)
    own = blake2b(label.encode(), digest_size=4).hexdigest()
    svg = _CLIP.sub(rf"\1clip{own}-\2", svg)
    while True:
        svg, removed = _EMPTY_GROUP.subn("", svg)
        if not removed:
            break
    return svg.replace("<svg ", f'<svg role="group" aria-label="{_attribute(label)}" ', 1)


def to_png(chart: Any) -> bytes:
    """Return a chart as a PNG on white, at twice its size."""
    spec = configured(chart)
    spec["config"]["background"] = SURFACE.light
    spec["padding"] = 16
    png: bytes = vl_convert.vegalite_to_png(spec, scale=PNG_SCALE)
    return png


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
