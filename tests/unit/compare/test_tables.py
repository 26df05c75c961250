"""What only a comparison tells, as a person sees it."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from tercet.compare.derive import derived
from tercet.compare.tables import print_comparison
from tercet.results.curve import Interference
from tercet.results.document import Method, Results, TrafficRecord
from tercet.results.record import StageBusy

from ..results.samples import architecture, request, results, run


def compared(blocks: int) -> Results:
    ttfts = {("pd", 1.0): 0.4, ("ppd", 1.0): 0.1, ("pd", 4.0): 0.1, ("ppd", 4.0): 0.4}
    runs = tuple(
        replace(
            run(
                label,
                (request("c0", 1, ttft, 0.01), request("c0", 2, ttft * (1 + 0.001 * block), 0.01)),
                qps=load,
                number=block,
            ),
            stages=(StageBusy("decode-0", "decode", 0.25 + 0.1 * block), StageBusy("decode-0", "prefill", 0.001)),
        )
        for (label, load), ttft in ttfts.items()
        for block in range(blocks)
    )
    document = replace(
        results(),
        runs=runs,
        traffics=(TrafficRecord("W1", 1.0, 10, 5, 2, 0.0, "poisson", 2),),
        architectures=(architecture("pd"), architecture("ppd")),
        interference=(Interference("pd", 4, 512, 3, 10.0, 12.0, 30.0, 90.0, 120.0),),
    )
    return derived(document, Method(blocks, ("ttft",), 0.03, "turn", unequal=False))


def text(document: Results) -> str:
    out = io.StringIO()
    print_comparison(document, Console(file=out, width=200))
    return out.getvalue()


def test_busy_shares_and_interference_are_printed_beside_everything_else() -> None:
    page = text(compared(3))
    assert "ppd better up to 1.9" in page, "the report's own tables come first"
    busy = page.split("Busy share")[1].split("Prefill against")[0]
    assert "decode-0 decode" in busy and "35%" in busy
    assert "prefill" not in busy, "next to nothing is not shown"
    assert "10.0 / 12.0" in page and "3.0 times" in page and "a prompt of 512 tokens" in page


def test_figures_that_are_not_there_have_no_table() -> None:
    page = text(results())
    assert "Busy share" not in page and "Prefill against" not in page
