"""`tercet report`: results files to one page with pictures, tables and a recommendation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.core.errors import UsageError

if TYPE_CHECKING:
    from tercet.results.document import Results


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="Results files of `tercet compare` or `tercet bench`, or of `vllm bench serve`, AIPerf or GuideLLM.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the report; files there are replaced.")
    ] = Path("report"),
    slo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:MS",
            help="What goodput asks of a request: ttft, tpot or e2e and milliseconds, such as ttft:500. Repeatable. "
            "Default: twice the best median at the lowest load.",
            show_default=False,
        ),
    ] = None,
    tables: Annotated[bool, typer.Option("--tables/--no-tables", help="Print the tables here too.")] = True,
) -> None:
    """Turn results into one HTML page with pictures, crossovers and a recommendation.

    The page (index.html) needs nothing beside itself and no network; light and dark. Beside it lie the pictures as PNG
    (qps_p99_ttft.png, qps_avg_e2e.png, qps_ratio_crossover.png, qps_success_rate.png, qps_throughput.png,
    qps_throughput_comparison.png and more; concurrency_*.png for loads by concurrency), the figures as CSV (summary,
    runs, requests, ratios) and qps_crossover_analysis.json.

    Invalid runs and unequal devices are marked wherever they show. Several files are drawn together but not judged
    against each other: that is what `tercet compare --merge` does.

    \b
    Examples:
      tercet report results/tercet-compare-20260131T120000Z.json -o out/
      tercet report results/*.json -o out/ --slo ttft:500 --slo tpot:30
      tercet report vllm-bench.json aiperf.json -o out/ --no-tables
    """
    from tercet.cli.measurements import measurements
    from tercet.cli.publishing import Wanted, print_blocks
    from tercet.compare.tables import print_comparison
    from tercet.report.folder import require_extra, write_report
    from tercet.report.serving import DEFAULT_PERCENTILES
    from tercet.report.several import together
    from tercet.report.terminal import console_for_output
    from tercet.results.slo import slo_from_flags

    asked = slo_from_flags(slo or [])
    files = measurements(files)
    each = list(zip(_names(files), map(_read, files), strict=True))
    results, warnings = together(each)
    require_extra()
    console = console_for_output()
    for _, measured in each if tables else ():
        if measured.kind in ("bench", "simulate"):
            print_blocks(measured, console, Wanted(output, asked, DEFAULT_PERCENTILES))
    if tables and any(measured.kind == "compare" for _, measured in each):
        print_comparison(results, console)
    written: list[Path] = []
    page = write_report(results, output, slo=asked, warnings=warnings, wrote=written.append)
    for warning in warnings:
        console.print(f"Note: {warning}", markup=False, soft_wrap=True)
    size = page.stat().st_size / 1e6
    console.print(
        f"Report: {page} ({size:.1f} MB) and {len(written) - 1} files beside it", markup=False, soft_wrap=True
    )


def _names(files: list[Path]) -> list[str]:
    """Return what the files are called: without their endings, where that tells them apart."""
    from tercet.results.names import told_apart

    names = told_apart(files)
    short = [str(Path(name).with_suffix("")) for name in names]
    return short if len(set(short)) == len(short) else names


def _read(path: Path) -> Results:
    from tercet.results.foreign import read_any

    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the results files in it, such as {path}/*.json")
    return read_any(path)
