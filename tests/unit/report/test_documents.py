"""The tables that comparisons are published with."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console, RenderableType

from tercet.report.documents import (
    by_load_table,
    crossover_table,
    improvement_tables,
    print_documents,
    recommendation_table,
    resource_table,
    winner_text,
)
from tercet.report.evidence import Group
from tercet.report.gather import gather
from tercet.report.metric import REQUESTS, TTFT_P50
from tercet.results.curve import Improvement

from .synthetic import comparison
from .test_words import judged

GROUP = Group("images", "concurrency")


def text(table: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=160).print(table)
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def by_concurrency() -> tuple[list[str], list[str]]:
    results = comparison(
        ("aggregated", "pd", "epd"), workloads=("images",), loads=(1, 8, 32), load_kind="concurrency", blocks=3,
        invalid=("pd", 32), turns=1,
    )  # fmt: skip
    evidence = gather(results)
    ttft = [verdict for verdict in results.verdicts if verdict.metric == "ttft"]
    return (
        text(by_load_table(evidence, ttft, GROUP, TTFT_P50)),
        text(by_load_table(evidence, [], GROUP, REQUESTS)),
    )


def test_a_table_by_load_has_a_row_a_load_a_column_an_architecture_and_the_winner() -> None:
    ttft, requests = by_concurrency()
    assert ttft[0] == "images: Median TTFT (ms), lower is better"
    assert "Concurrency │ aggregated │ pd │ epd │ Winner" in ttft[2]
    assert [line.split("│")[0].strip() for line in ttft[4:7]] == ["1", "8", "32"]
    assert "✓ (" in ttft[4] and "% faster than" in ttft[4]
    assert "✕" in ttft[6] and "✕" not in ttft[5]
    assert "not judged" in requests[4]


def test_the_crossover_has_a_column_a_range() -> None:
    verdicts = [judged(1, ["replicated"]), judged(2, ["ppd"]), judged(4, ["ppd"])]
    table = crossover_table(verdicts, Group("W1", "qps"))
    assert table is not None
    lines = text(table)
    assert "at 1 requests/s │ from 2 requests/s" in lines[2]
    assert "replicated best │ ppd best" in lines[4]


def test_without_a_verdict_there_is_no_crossover_and_a_short_reason() -> None:
    verdict = replace(judged(1, []), reason="needs at least 3 blocks, there are 0: block 1 of pd is invalid: late")
    assert crossover_table([verdict], Group("W1", "qps")) is None
    assert winner_text(verdict, [], TTFT_P50) == "no verdict: needs at least 3 blocks, there are 0"


def test_recommendations_and_resources() -> None:
    results = comparison(workloads=("W1",), blocks=3, devices={"pd": 3})
    evidence = gather(results)
    rows = text(recommendation_table(results, evidence, Group("W1", "qps")))
    assert "Traffic level │ Best architecture │ Median TTFT │ Throughput │ Why" in rows[2]
    assert rows[4].startswith("Light traffic (0.5 requests/s) │ ")
    resources = text(resource_table(evidence))
    assert resources[0] == "Resources (UNEQUAL devices)"
    assert "replicated │ 2A │ 2 │ Low" in resources
    assert "pd │ 1P1D │ 3 │ Medium" in resources


def test_later_turns_have_a_table_of_improvements() -> None:
    found = [
        Improvement(w, "qps", "ttft_later", "TTFT turn 2", "ppd", "pd", 0.706, 0.6, 0.8, 0.5, 0.828, 5, 5)
        for w in ("W1", "W2")
    ]
    few = replace(found[0], workload="W3", low=None, high=None)
    (table,) = improvement_tables([*found, few])
    lines = text(table)
    assert lines[0] == "ppd against pd: improvement of TTFT turn 2"
    assert "W1 │ +70.6% │ +60.0% to +80.0% │ +50.0% │ +82.8% │ 5" in lines
    assert "W3 │ +70.6% │ - │ +50.0% │ +82.8% │ 5" in lines


def test_one_load_has_no_table_by_load() -> None:
    results = comparison(workloads=("W1",), loads=(1,), blocks=1)
    out = io.StringIO()
    print_documents(results, gather(results), Console(file=out, width=160))
    assert "lower is better" not in out.getvalue()
    assert "Resources" in out.getvalue()


def test_one_architecture_is_recommended_to_nobody() -> None:
    results = replace(comparison(("pd",), workloads=("W1",), loads=(1, 2), blocks=1), verdicts=(), curves=())
    out = io.StringIO()
    print_documents(results, gather(results), Console(file=out, width=160))
    said = out.getvalue()
    assert "W1: Median TTFT" in said
    assert not [word for word in ("Winner", "judged", "recommendations") if word in said]
