"""The router's log: text or JSON, and one line for each request where that is wanted. Nothing of prompts or answers."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from time import perf_counter_ns

from tercet.core.fast_json import dumps
from tercet.core.faults import whence
from tercet.http.server import Request
from tercet.router.record import RequestRecord

FORMATS = ("text", "json")
PATH_CHARS = 256
CLIENT_GONE = 499
LOOKS = frozenset({"GET", "HEAD"})

log = logging.getLogger("tercet.request")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what a request's line tells besides."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a log record."""
        data: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        data |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            data["exception"] = whence(record.exc_info[1])
        return dumps(data).decode()


def set_up_logs(how: str) -> None:
    """Send what the router logs to stderr, as one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if how == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class RequestLog:
    """Writes a line when a request is over."""

    def __init__(self, how: str) -> None:
        self._json = how == "json"

    def ended(self, record: RequestRecord) -> None:
        """Tell of a request for generation."""
        if self._json:
            log.info("generation", extra={"fields": record.to_json()})
        else:
            log.info("%s", _line(record))

    def answered(self, request: Request, request_id: str, key: str | None, status: int) -> None:
        """Tell of any other request but a look at the router, of which a dashboard takes several a second; `status` 0:
        the client left before it had an answer."""
        if request.method in LOOKS and 200 <= status < 300 and not request.path.startswith("/v1/"):
            return
        milliseconds = round((perf_counter_ns() - request.received_ns) / 1e6, 3)
        path, status = request.path[:PATH_CHARS], status or CLIENT_GONE
        if self._json:
            fields = {"method": request.method, "path": path, "status": status, "duration_ms": milliseconds}
            log.info("request", extra={"fields": {"id": request_id, "key": key, **fields}})
        else:
            log.info("%s %s %s %d %.1f ms", request_id, request.method, json.dumps(path), status, milliseconds)


def _line(record: RequestRecord) -> str:
    """Return a record in a line: what comes from outside is quoted, so that it can't begin another."""
    spans = [
        f"{span.phase}{f'@{span.worker}' if span.worker else ''}={(span.end_ns - span.start_ns) / 1e6:.1f}"
        for span in record.spans
    ]
    tokens = f"{record.prompt_tokens}({record.cached_tokens} cached)>{record.output_tokens}"
    said = [record.id, str(record.status), record.mode, record.turn, str(record.route), tokens]
    if record.retries:
        said.append(f"retries={record.retries}")
    if record.error is not None:
        said.append(f"error={json.dumps(record.error)}")
    return " ".join([*said, *spans, f"total={record.seconds * 1e3:.1f} ms"])
