"""Results of other tools, mapped by what their metrics mean, not by what they are called.

| ours | vllm bench serve | AIPerf | GuideLLM |
|---|---|---|---|
| TTFT | TTFT | time to first token | time to first token |
| TPOT | TPOT | inter token latency | inter token latency (its TPOT includes TTFT) |
| ITL | ITL | inter chunk latency | not kept: spread evenly |
| E2E, to the last content | E2EL | request latency | first to last token, and TTFT |

All three measure from sending; only AIPerf and GuideLLM say when a request was due.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.results.document import Results
from tercet.results.file import read
from tercet.results.foreign_aiperf import aiperf_run, is_aiperf
from tercet.results.foreign_guidellm import guidellm_runs, is_guidellm
from tercet.results.foreign_run import ForeignRun, foreign_results
from tercet.results.foreign_vllm import is_vllm, vllm_run


def is_foreign(data: Any) -> bool:
    """Return whether a JSON document is one of another tool's results."""
    return is_vllm(data) or is_aiperf(data) or is_guidellm(data)


def read_foreign(path: Path) -> Results:
    """Read what `vllm bench serve --save-result --save-detailed`, AIPerf or GuideLLM wrote.

    AIPerf's `profile_export_aiperf.json` is read with the records beside it (`profile_export.jsonl`), or those alone.
    Raises UsageError for a file that is missing, of no such tool, or without its requests.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {path}: {error}") from error
    try:
        return foreign_results(path, _runs(path, text))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UsageError(f"{path} is not as its tool writes it: {type(error).__name__}: {error}") from error


def read_any(path: Path) -> Results:
    """Read a results file of Tercet's, or of another tool. Raises UsageError."""
    if path.suffix == ".jsonl" or is_foreign(_json(path)):
        return read_foreign(path)
    return read(path)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None  # `read` says what is wrong with it


def _runs(path: Path, text: str) -> list[ForeignRun]:
    if path.suffix == ".jsonl":
        return [aiperf_run(path, {}, text)]
    data = json.loads(text)
    if is_vllm(data):
        return [vllm_run(path, data)]
    if is_guidellm(data):
        return guidellm_runs(path, data)
    if is_aiperf(data):
        return [aiperf_run(path, data, None)]
    raise UsageError(
        f"{path} is of no known tool: read are results of tercet, vllm bench serve (--save-result --save-detailed), "
        "AIPerf (profile_export_aiperf.json with profile_export.jsonl beside it) and GuideLLM (benchmarks.json)"
    )
