"""Everything a report is, written into a folder: the page, the pictures, the CSVs and the crossover analysis."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tercet.core.errors import MissingExtraError, UsageError
from tercet.report.crossover import crossover_analysis
from tercet.report.csv_files import csv_files
from tercet.report.gather import gather
from tercet.results.document import Results
from tercet.results.slo import Slo

PAGE = "index.html"
MAX_PAGE_BYTES = 2_000_000
"""A larger page is drawn again with fewer pictures a section; the PNG files still hold all of them."""


def require_extra() -> None:
    """Raise MissingExtraError when the libraries that draw are not installed."""
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise MissingExtraError("report", "tercet report") from error
    del altair, vl_convert


def write_report(
    results: Results,
    folder: Path,
    *,
    slo: Slo | None = None,
    warnings: tuple[str, ...] = (),
    wrote: Callable[[Path], None] = lambda path: None,
) -> Path:
    """Write the report into `folder` (made if missing; files of the same names are replaced) and return the page.

    `wrote` is told of each file. Raises MissingExtraError, and UsageError when nothing was measured or the folder can't
    be written.
    """
    require_extra()
    from tercet.report.charts.files import pictures
    from tercet.report.page.compose import MAX_PANELS, compose
    from tercet.report.page.html import to_html

    if not results.runs:
        raise UsageError("these results hold no run: there is nothing to report")
    evidence = gather(results, slo)
    names: list[str] = []

    def write(name: str, content: bytes) -> None:
        path = folder / name
        path.write_bytes(content)
        names.append(name)
        wrote(path)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in csv_files(results, evidence).items():
            write(name, text.encode())
        for kind in dict.fromkeys(group.load_kind for group in evidence.groups):
            analysis = crossover_analysis(results, evidence, kind)
            write(f"{kind}_crossover_analysis.json", (json.dumps(analysis, indent=1) + "\n").encode())
        for name, png in pictures(results, evidence):
            write(name, png)
        max_panels = MAX_PANELS
        while True:
            page = to_html(compose(results, evidence, warnings, max_panels=max_panels), tuple(names)).encode()
            if len(page) <= MAX_PAGE_BYTES or max_panels == 1:
                break
            max_panels //= 2
        write(PAGE, page)
    except OSError as error:
        raise UsageError(f"can't write the report into {folder}: {error.strerror}; give another --output") from error
    return folder / PAGE
