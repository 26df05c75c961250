from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tercet.bench.observed import observed, observed_run, split_route
from tercet.bench.observed_csv import lowest_loads, read_csv_samples, read_rows
from tercet.core.errors import UsageError
from tercet.latency.samples import FirstToken, Stretch
from tercet.results.record import ClientHealth, RequestRecord, RunRecord

from ..results.samples import architecture, results

HEADER = (
    "workload,mode,target_qps,real_qps,turn2_prompt_tokens,mean_output_tokens,"
    "t2_ttft_avg_ms,t2_tpot_avg_ms,t2_e2e_avg_ms"
)


def request(
    sent: float,
    first: float,
    last: float,
    *,
    output: int = 11,
    route: str | None = "A0",
    prompt: int = 600,
    cached: int = 0,
    turn: int = 1,
    images: int = 0,
) -> RequestRecord:
    chunks = tuple(first + (last - first) * i / (output - 1) for i in range(output))
    return RequestRecord(
        "c", turn, sent, sent, last, chunks, prompt, output, output, cached, route=route, images=images
    )


def run(*requests: RequestRecord) -> RunRecord:
    health = ClientHealth(0, 0, 0, 0, 0, False)
    return RunRecord("a", "replicated", "W1", "qps", 1.0, 0, 0, "s", "2026-01-01T00:00:00Z", 9.0, health, requests)


def test_one_request_alone_tells_of_its_prompt_and_of_decoding() -> None:
    first, stretch = observed_run(run(request(0.0, 0.5, 1.5, cached=100)), 256)
    assert isinstance(first, FirstToken) and first.observed_ms == pytest.approx(500.0)
    assert replace(first, observed_ms=0.0) == FirstToken(0.0, 500, 100, 2)
    assert isinstance(stretch, Stretch)
    assert stretch.observed_ms == pytest.approx(1000.0)
    assert (stretch.steps, stretch.batch) == (10, 1.0)
    assert stretch.context == pytest.approx(605.5)


@pytest.mark.parametrize(
    ("engine", "steps"),
    [
        ({"engine": "tercet"}, 3),
        ({"engine": "vllm"}, 1),
        ({"engine": "tercet", "max_num_batched_tokens": 300}, 5),
        ({"engine": "vllm", "max_num_batched_tokens": None}, 1),
        ({}, 1),
    ],
)
def test_a_prompt_takes_as_many_steps_as_its_engine_says(engine: dict[str, object], steps: int) -> None:
    one = run(request(0.0, 0.5, 1.5, prompt=1500))
    measured = replace(results(), architectures=(replace(architecture("a"), engine=engine),), runs=(one,))
    first, _ = observed(measured)
    assert isinstance(first, FirstToken) and first.steps == steps
    assert observed(replace(measured, runs=(replace(one, invalid_reasons=("late",)),))) == []


def test_who_computes_beside_is_counted_by_how_long_it_did() -> None:
    """On A1 a prompt from 1 to 2 and its answer until 4; on A2 nothing before 5.5. Seen from A0, of 2 and of 6 s."""
    samples = observed_run(
        run(
            request(2.0, 4.0, 10.0),
            request(1.0, 2.0, 4.0, route="A1"),
            request(3.0, 3.5, 6.0, route="A1"),
            request(5.5, 6.5, 7.0, route="A2"),
        ),
        512,
    )
    first, stretch = samples[:2]
    assert isinstance(first, FirstToken) and first.others == pytest.approx(1.0)
    assert isinstance(stretch, Stretch) and stretch.others == pytest.approx((2.0 + 1.5) / 6)


def test_who_waited_for_another_tells_nothing_of_its_prompt() -> None:
    samples = observed_run(run(request(0.0, 0.5, 1.5), request(0.4, 0.9, 1.9)), 512)
    assert [type(each) for each in samples] == [Stretch, Stretch]
    apart = observed_run(run(request(0.0, 0.5, 1.5), request(0.4, 0.9, 1.9, route="A1")), 512)
    assert [type(each) for each in apart] == [FirstToken, Stretch, FirstToken, Stretch]


def test_what_decodes_beside_is_counted_by_how_long_it_did() -> None:
    samples = observed_run(run(request(0.0, 1.0, 3.0), request(1.5, 2.0, 4.0)), 512)
    firsts = [each for each in samples if isinstance(each, FirstToken)]
    stretches = [each for each in samples if isinstance(each, Stretch)]
    assert [each.decodes for each in firsts] == [0.0, 1.0]
    assert [each.batch for each in stretches] == [pytest.approx(1.5), pytest.approx(1.5)]
    assert [each.prompt_tokens for each in stretches] == [600.0, 0.0]


def test_a_handoff_is_seen_in_the_route() -> None:
    first, stretch = observed_run(run(request(0.0, 1.0, 3.0, route="P0>D0")), 512)
    assert isinstance(first, FirstToken) and first.handoff and first.handoff_busy == 0.0
    assert isinstance(stretch, Stretch)
    later = observed_run(run(request(0.0, 1.0, 3.0, route="P0>D0", turn=2)), 512)
    assert [type(each) for each in later] == [Stretch]
    samples = observed_run(
        run(request(0.0, 1.0, 3.0, route="P0>D0"), request(1.2, 1.6, 3.0, route="E0>P0>D0", images=2)), 512
    )
    busy = [each for each in samples if isinstance(each, FirstToken)][1]
    assert (busy.handoff_busy, busy.decodes, busy.images, busy.remote_images) == (1.0, 0.0, 2, True)


def test_what_a_handoff_moved_is_what_the_server_says_else_the_prompt() -> None:
    first, second = request(0.0, 1.0, 4.0, route="P0>D0"), request(1.2, 1.6, 3.0, route="P0>D0")
    whole = observed_run(run(first, second), 512)
    told = observed_run(run(first, replace(second, external_tokens=48)), 512)
    for samples, moved in ((whole, second.prompt_tokens), (told, 48)):
        firsts = [each for each in samples if isinstance(each, FirstToken)]
        stretches = [each for each in samples if isinstance(each, Stretch)]
        assert [each.moved for each in firsts] == [first.prompt_tokens, moved]
        assert [(each.handoffs, each.moved) for each in stretches] == [(1.0, moved), (0.0, 0.0)]


@pytest.mark.parametrize(
    ("route", "want"),
    [
        (None, ("", "", False)),
        ("A0", ("A0", "A0", False)),
        ("P1>D0", ("P1", "D0", False)),
        ("E0+E1>P0>D1", ("P0", "D1", True)),
        ("E0>A1", ("A1", "A1", True)),
    ],
)
def test_a_route_is_split(route: str | None, want: tuple[str, str, bool]) -> None:
    assert split_route(route) == want


def test_a_table_of_averages_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}\nW1,pd,1,0.9,413,240,96,8.3,2091\nW1,pd,0.1,0.1,413,213,82,7.9,1780\n")
    rows = read_rows(path)
    assert [row.qps for row in lowest_loads(rows)] == [0.1]
    first, stretch = read_csv_samples(path)
    assert isinstance(first, FirstToken) and first.handoff and 0.1 < first.handoff_busy < 0.2
    assert isinstance(stretch, Stretch) and stretch.batch == pytest.approx(1.178)
    assert len(read_csv_samples(path, all_loads=True)) == 4
    path.write_text("batch_size,tpot_ms\n10,11.5\n")
    assert read_csv_samples(path) == [Stretch(11.5, 1, 10.0, 2460.0)]
    path.write_bytes(b"\xef\xbb\xbfbatch_size,tpot_ms\r\n10,11.5\r\n")  # as a spreadsheet writes it
    assert read_csv_samples(path) == [Stretch(11.5, 1, 10.0, 2460.0)]


def test_a_prompt_shorter_than_what_is_cached_of_others_still_computes_a_token(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}\nW0,ppd,1,0.9,30,240,96,8.3,2091\n")
    first, _ = read_csv_samples(path)
    assert isinstance(first, FirstToken) and (first.tokens, first.prefix) == (1, 29)


def test_a_table_with_a_fault_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}\nW1,pd,1,0.9,413,240,96,8.3,2091\nW1,pd,1,0.9,many,240,96,8.3,2091\n")
    with pytest.raises(UsageError, match="line 3"):
        read_rows(path)
    for rows in ("ten,11.5", "0,11.5", "10,0", "10,-3", "10,nan", "10,inf", "10,"):
        path.write_text(f"batch_size,tpot_ms\n{rows}\n")
        with pytest.raises(UsageError, match=r"line 2: .*; wanted are batch_size and tpot_ms"):
            read_csv_samples(path)
    for place, said in ((3, "real_qps is -1"), (4, "turn2_prompt_tokens is -1"), (6, "t2_ttft_avg_ms is -1")):
        fields = ["W1", "pd", "1", "0.9", "413", "240", "96", "8.3", "2091"]
        path.write_text(f"{HEADER}\n{','.join(['-1' if i == place else each for i, each in enumerate(fields)])}\n")
        with pytest.raises(UsageError, match=f"line 2: {said}, a number above 0 is needed"):
            read_rows(path)
    path.write_text(HEADER.replace(",", ";") + "\nW1;pd;1;0.9;413;240;96;8.3;2091\n")
    with pytest.raises(UsageError, match="line 2: there is no column 'workload'"):
        read_rows(path)
    with pytest.raises(UsageError, match="can't read"):
        read_rows(tmp_path / "none.csv")
