"""`tercet calibrate`: fits a stack's constants, or a whole machine, to measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.core.errors import UsageError


def calibrate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="Results of `tercet bench`, `tercet compare` or `vllm bench serve --save-detailed`; with --csv, "
            "tables of averages.",
            show_default=False,
        ),
    ],
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Fit the constants around this GPU's known step times: a100, h100, h200..."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="The model that was measured.  [default: as the file says]")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="vllm, sglang or trtllm; with --gpu.")] = "vllm",
    tp: Annotated[int, typer.Option(metavar="GPUS", help="GPUs of one replica; with --gpu.")] = 1,
    oracle: Annotated[str, typer.Option(metavar="KIND", help="auto, grid, live or roofline; with --gpu.")] = "auto",
    csv: Annotated[bool, typer.Option("--csv", help="The files are CSV tables of averages, not results.")] = False,
    all_loads: Annotated[
        bool, typer.Option("--all-loads", help="With --csv: fit every load, not the lowest of each workload and mode.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write them, .yaml or .json.")
    ] = Path("stack.yaml"),
) -> None:
    """Fit what a real stack adds to its devices, and say how well that fits.

    With --gpu the step times are known, and few constants are fitted around them: a scale, milliseconds a request,
    milliseconds a handoff (more when the receiver is busy) and a picture. Without --gpu the machine itself is fitted:
    what a step, a prompt token, a decoding sequence and its context cost. One load is enough; prompts of several
    lengths tell more than many of one. `tercet plan` and `tercet simulate` take the file by --stack.

    \b
    Examples:
      tercet calibrate results/tercet-bench-*.json                     this machine, as it was measured
      tercet calibrate vllm-bench.json --gpu h100 --model llama-3.1-8b -o h100.yaml
      tercet calibrate measured.csv --csv --gpu h100 --model llama-3.1-8b
    """
    from tercet.bench.observed_csv import read_csv_samples
    from tercet.cli.calibrating import is_known, known_device, print_calibration, this_machine
    from tercet.cli.measurements import measurements
    from tercet.cli.timings import Timings, timings_of
    from tercet.latency.calibration_file import write_calibration

    if all_loads and not csv:
        raise UsageError("--all-loads is of --csv: of results every load is fitted anyway")
    files = measurements(files)
    if csv:
        rows = [sample for path in files for sample in read_csv_samples(path, all_loads=all_loads)]
        if not rows:
            raise UsageError(f"{', '.join(map(str, files))}: no valid run tells of a first token or of decoding")
        found = Timings(rows, None, (), 0)
    else:
        found = timings_of(files)
    samples, said = found.samples, found.model
    source = f"{len(samples)} timings of {', '.join(path.name for path in files)}"
    if gpu is not None:
        if model is None and (said is None or not is_known(said)):
            raise UsageError(f"--gpu needs --model NAME: which model was measured; the files say {said or 'nothing'}")
        calibration, errors = known_device(samples, (model or said or "", gpu, engine, tp), oracle, source)
    else:
        calibration, errors = this_machine(samples, model or said, found.engines, source)
    write_calibration(calibration, out)
    print_calibration(calibration, samples, errors)
    typer.echo(f"Wrote {out}: tercet plan --stack {out}, tercet simulate --stack {out}")
