"""This machine's own engine: calibrated at one load, the other loads predicted, beside what was measured.

    tercet compare --modes replicated,pd,ppd --workload W1,W2 --scale 0.125 --qps 0.5,1,1.5 --blocks 1 --no-probe
    python -m benchmarks.planner_accuracy.machine results/tercet-compare-*.json

The lowest load of every architecture and workload is fitted; all others are predicted by sending the recorded
conversations through the simulator: at the recorded times, or so many at a time in a closed loop. A later turn follows
the end of the one before after the pause that the client made.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.planner_accuracy.client import Figures, closed_loop, figures, open_loop
from benchmarks.planner_accuracy.compared import Judgement, Point, print_judgement

from tercet.cli.calibrating import print_calibration, this_machine
from tercet.cli.timings import timings_in
from tercet.core.stage import Mode
from tercet.latency.calibration_file import Calibration
from tercet.results.document import ArchitectureRecord, Results
from tercet.results.foreign import read_any
from tercet.results.record import RequestRecord, RunRecord
from tercet.routing.policy import PPD_THRESHOLD, Policy
from tercet.sim.client import SimConversation, SimTurn
from tercet.sim.content import Content
from tercet.sim.fleet import EngineCaps, FleetSpec, fleet_of
from tercet.sim.simulate import simulate

PICTURES = 3
"""So many take turns in a workload whose first turns find any of their prompt cached."""


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
    found = timings_in([fitted], "the lowest loads")
    calibration, errors = this_machine(
        found.samples, results.model, found.engines, f"{len(low)} runs at the lowest loads"
    )
    print_calibration(calibration, found.samples, errors)
    return calibration, fitted


def replay(run: RunRecord, architecture: ArchitectureRecord, calibration: Calibration) -> Figures:
    """Return the figures of the run's own conversations, simulated."""
    talks = list(_conversations(run))
    fleet = _fleet(run, architecture, calibration, max(talk.content.picture_tokens for talk in talks))
    if run.load_kind == "concurrency":
        return closed_loop(fleet, talks, int(run.load))
    found = simulate(fleet, open_loop(), conversations=sorted(talks, key=lambda talk: talk.arrival_s))
    return figures(found.requests, found.duration_s)


def _fleet(
    run: RunRecord, architecture: ArchitectureRecord, calibration: Calibration, picture_tokens: int
) -> FleetSpec:
    """Return what served: the measured machine as each rank, the recorded limits and the recorded policy."""
    chosen = calibration.chosen()
    assert chosen is not None
    engine, router = architecture.engine, architecture.router
    caps = EngineCaps(
        max_num_seqs=int(engine.get("max_num_seqs") or 64),
        max_num_batched_tokens=int(engine.get("max_num_batched_tokens") or 512),
        block_size=int(engine.get("block_size") or 16),
        kv_blocks=int(engine.get("kv_blocks") or 0),
    )
    return fleet_of(
        architecture.short_form,
        replace(chosen, image_tokens=picture_tokens),
        mode=Mode(run.mode),
        stack=calibration.stack,
        caps=caps,
        policy=Policy(router.get("balancer"), int(router.get("ppd_threshold") or PPD_THRESHOLD)),
    )


def _conversations(run: RunRecord) -> Iterator[SimConversation]:
    """Yield what was said, by its lengths. Where first turns found something cached, they had pictures in common."""
    requests: dict[str, list[RequestRecord]] = defaultdict(list)
    for request in run.finished:
        requests[request.conversation].append(request)
    each = [sorted(found, key=lambda request: request.turn) for found in requests.values()]
    common = any(found[0].cached_tokens for found in each)
    for number, found in enumerate(each):
        yield _conversation(number, found, common)


def _conversation(number: int, requests: Sequence[RequestRecord], common: bool) -> SimConversation:
    first = requests[0]
    vision = first.vision_tokens or 0
    keys = [f"{number % PICTURES} {i}" if common else None for i in range(first.images)]
    turns = []
    said, done_s = vision, first.sent_s
    for request in requests:
        new = max(request.prompt_tokens - said, 1)
        turns.append(SimTurn(new, request.output_tokens, max(request.sent_s - done_s, 0.0)))
        said, done_s = request.prompt_tokens + request.output_tokens, request.done_s
    content = Content(
        number,
        first.conversation,
        pictures=keys,
        picture_tokens=vision // first.images if first.images else 0,
        first_text=turns[0].new_tokens,
    )
    return SimConversation(content, tuple(turns), first.sent_s)


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
