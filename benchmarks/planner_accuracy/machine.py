"""This machine's own engine: calibrated at one load, the other loads predicted, beside what was measured.

    tercet compare --modes replicated,pd,ppd --workload W1,W2 --scale 0.125 --qps 0.5,1,1.5 --blocks 1 --no-probe
    python -m benchmarks.planner_accuracy.machine results/tercet-compare-*.json

The lowest load of every architecture and workload is fitted; all others are predicted by sending the recorded
conversations to the scheduler on a virtual clock: at the recorded times, or so many at a time in a closed loop. A later
turn follows the end of the one before after the pause that the client made.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.planner_accuracy.client import Client, Figures, closed_loop, figures
from benchmarks.planner_accuracy.compared import Judgement, Point, print_judgement
from benchmarks.planner_accuracy.engine import Clock, Turn
from benchmarks.planner_accuracy.fleet import Fleet

from tercet.bench.observed import observed
from tercet.cli.calibrating import print_calibration, this_machine
from tercet.latency.calibration_file import Calibration
from tercet.results.document import ArchitectureRecord, Results
from tercet.results.foreign import read_any
from tercet.results.record import RequestRecord, RunRecord


def calibrated(results: Results) -> tuple[Calibration, Results]:
    """Return what the lowest loads tell, and those runs."""
    lowest = {
        (run.architecture, run.workload): min(
            each.load for each in results.runs if (each.architecture, each.workload) == (run.architecture, run.workload)
        )
        for run in results.runs
    }
    low = tuple(run for run in results.runs if run.load == lowest[run.architecture, run.workload])
    fitted = replace(results, runs=low)
    samples = observed(fitted)
    engines = [dict(each.engine) for each in results.architectures]
    calibration, errors = this_machine(samples, results.model, engines, f"{len(low)} runs at the lowest loads")
    print_calibration(calibration, samples, errors)
    return calibration, fitted


def replay(run: RunRecord, architecture: ArchitectureRecord, calibration: Calibration) -> Figures:
    """Return the figures of the run's own conversations on the virtual clock."""
    chosen = calibration.chosen()
    assert chosen is not None
    config = architecture.short_form
    if run.mode == "ppd":
        config = config.replace("D", "pD")
    engine = architecture.engine
    clock = Clock()
    fleet = Fleet(
        clock,
        config,
        chosen,
        calibration.stack,
        seed=1,
        max_num_seqs=int(engine.get("max_num_seqs") or 64),
        max_num_batched_tokens=int(engine.get("max_num_batched_tokens") or 512),
        balanced=True,
        direct_below=int(architecture.router.get("ppd_threshold") or 1 << 30),
    )
    client = Client(clock, fleet)
    conversations: dict[str, list[RequestRecord]] = defaultdict(list)
    for request in run.finished:
        conversations[request.conversation].append(request)
    turns: list[Turn] = []
    each = [sorted(requests, key=lambda request: request.turn) for requests in conversations.values()]

    # What first turns find cached, all but the first of them have in common: pictures that take turns.
    shared = max((requests[0].cached_tokens or 0 for requests in each), default=0)

    def begin(number: int, on_end: Callable[[], None] = lambda: None) -> None:
        _send(client, clock, turns, number, each[number], shared, on_end)

    if run.load_kind == "concurrency":
        closed_loop(clock, begin, int(run.load), len(each))
    else:
        for number, requests in enumerate(each):
            clock.after(requests[0].sent_s, partial(begin, number))
    clock.run()
    return figures(turns, max(clock.now, 1e-9))


def _send(
    client: Client,
    clock: Clock,
    turns: list[Turn],
    number: int,
    requests: Sequence[RequestRecord],
    shared: int,
    on_end: Callable[[], None],
) -> None:
    request = requests[0]
    turn = Turn(number, request.prompt_tokens, request.output_tokens, turn=request.turn, images=request.images)
    turn.shared = shared
    turns.append(turn)

    def ended() -> None:
        if len(requests) == 1:
            on_end()
            return
        pause = max(requests[1].sent_s - request.done_s, 0.0)
        clock.after(pause, partial(_send, client, clock, turns, number, requests[1:], shared, on_end))

    client.send(turn, ended)


def judge(results: Results) -> Judgement:
    """Predict the runs that were not fitted."""
    calibration, fitted = calibrated(results)
    known = {id(run) for run in fitted.runs}
    architectures = {each.label: each for each in results.architectures}
    points = []
    for run in results.runs:
        if id(run) in known or run.invalid or not run.finished:
            continue
        found = replay(run, architectures[run.architecture], calibration)
        done = run.finished
        tpots = [request.tpot_ms for request in done if request.tpot_ms is not None]
        measured = {
            "ttft": sum(request.ttft_ms for request in done) / len(done),
            "tpot": sum(tpots) / len(tpots),
            "e2e": sum(request.e2e_ms for request in done) / len(done),
            "throughput": len(done) / max(request.done_s for request in done),
        }
        predicted = {"ttft": found.ttft, "tpot": found.tpot, "e2e": found.e2e, "throughput": found.rate}
        load = f"{run.load:g}/s" if run.load_kind == "qps" else f"{run.load:g} at once"
        points.append(Point(f"{run.workload} at {load}", run.architecture, measured, predicted))
    return Judgement("This machine, at loads that were not fitted", points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="results of tercet compare")
    parser.add_argument("--details", action="store_true", help="print every point")
    arguments = parser.parse_args()
    for path in arguments.files:
        print_judgement(judge(read_any(path)), details=arguments.details)


if __name__ == "__main__":
    main()
