"""Every request as a line of JSON, beside a results file."""

from __future__ import annotations

import json
from pathlib import Path

from tercet.results.codec import encode
from tercet.results.document import Results


def write_lines(results: Results, beside: Path) -> Path:
    """Write one line a request, `NAME-requests.jsonl` beside the results file NAME.json, and return the path.

    A line is the request's record and which run it belongs to: `workload`, `load_kind`, `load`, `architecture`,
    `block`, `order`.
    """
    path = beside.with_name(f"{beside.stem}-requests.jsonl")
    with path.open("w", encoding="utf-8") as file:
        for run in results.runs:
            place = {
                "architecture": run.architecture,
                "workload": run.workload,
                "load_kind": run.load_kind,
                "load": run.load,
                "block": run.block,
                "order": run.order,
            }
            for request in run.requests:
                file.write(json.dumps({**place, **encode(request)}, separators=(",", ":")) + "\n")
    return path
