"""What an answer of a worker means that is no step of its protocol: a reply, a refusal or a failure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tercet.core.errors import RequestError
from tercet.core.fast_json import loads_answer
from tercet.core.route import Rank
from tercet.dialects.protocol import Answer, Failure, Leg, PicturesNeeded, Reply, Step
from tercet.dialects.request import dump
from tercet.dialects.usage import ERROR_EVENT, aborted, merge_details


def refused(leg: Leg, answer: Answer) -> Step:
    """Take an answer whose status is not 200: a 4xx is the client's own affair, all else the worker's fault."""
    answer = nested(answer)
    if 400 <= answer.status < 500:
        return Reply(answer.status, answer.body, answer.headers.get("content-type", "application/json"))
    return Failure(worker_error(leg.rank, answer), leg.rank, retry=True)


def worker_error(rank: Rank, answer: Answer) -> RequestError:
    """Return a worker's error answer as an error of our own; keeps message, type and code where it is an error
    object."""
    status = answer.status if answer.status >= 400 else 502
    try:
        error = loads_answer(answer.body)["error"]
        message = str(error["message"])
        code = error.get("code")
        param = error.get("param")
        return RequestError(
            status,
            message,
            kind=str(error.get("type") or ""),
            code=None if code is None else str(code),
            param=None if param is None else str(param),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        text = answer.body[:200].decode("utf-8", "replace")
        return RequestError(status, f"worker {rank.label} answered {answer.status}: {text}", code="worker_error")


def nested(answer: Answer) -> Answer:
    """Return an error as OpenAI writes it: SGLang and TensorRT-LLM leave out the `error` around message, type and
    code."""
    try:
        data = loads_answer(answer.body)
    except ValueError:
        return answer
    if not isinstance(data, dict) or "error" in data or not isinstance(data.get("message"), str):
        return answer
    code = data.get("code")
    error = {
        "message": data["message"],
        "type": str(data.get("type") or ""),
        "code": None if code is None else str(code),
        "param": data.get("param"),
    }
    return Answer(answer.status, {"content-type": "application/json"}, dump({"error": error}))


def no_encoders(dialect: str) -> RequestError:
    """Return the refusal to speak to encode workers of an engine whose protocol for it is not spoken here."""
    return RequestError(501, f"encode workers of {dialect} are not spoken to", code="not_in_this_dialect")


def no_choices(engine: str) -> RequestError:
    """Return the refusal of several answers to one prompt, of which an engine hands on but one."""
    message = f"{engine} hands a prompt on from P to D for one answer alone: ask for n = 1, once for each answer"
    return RequestError(400, message, code="one_choice", param="n")


def without_pictures(needed: PicturesNeeded) -> RequestError:
    """Return the failure of a rank that lacks pictures once more."""
    listed = ", ".join(map(str, needed.pictures))
    message = f"{needed.rank.label} could not get pictures {listed}, though they were encoded for it a moment ago"
    return RequestError(502, message, code="images_needed")


def engine_failed(leg: Leg, what: str) -> Failure:
    """Return the failure of an engine that gave up although HTTP said 200."""
    message = f"the engine of {leg.rank.label} failed while it answered ({what})"
    return Failure(RequestError(502, message, code="engine_error"), leg.rank, retry=True)


def gave_up(leg: Leg, body: bytes) -> Step:
    """Return what an engine means whose answer says itself that it is none (`failed`). An error in a stream counts as
    if it had been the whole answer: HTTP said 200 before the engine knew that it may be the client's."""
    error = error_in(body)
    if error is not None:
        return refused(leg, error)
    what = "an error in its stream" if ERROR_EVENT in body else 'finish_reason "error"'
    return engine_failed(leg, 'finish_reason "abort"' if aborted(body) else what)


def error_in(events: bytes) -> Answer | None:
    """Return the error that events of a stream say, as a whole answer with the status that it names; None when they say
    none, or not all of it."""
    at = events.find(ERROR_EVENT)
    if at < 0:
        return None
    body = events[at + len(b"data: ") :].partition(b"\n")[0]
    try:
        error = loads_answer(body)["error"]
    except ValueError:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    status = code if type(code) is int and 400 <= code < 600 else 502
    return Answer(status, {"content-type": "application/json"}, body)


def broken(leg: Leg, what: str) -> Failure:
    """Return the failure of a worker that answers something else than its protocol."""
    message = f"worker {leg.rank.label} does not speak this protocol: {what}"
    return Failure(RequestError(502, message, code="bad_worker_answer"), leg.rank, retry=True)


def merged_reply(leg: Leg, answer: Answer, details: Mapping[str, int]) -> Step:
    """Return D's whole answer as the client's, with what P's usage said of the prompt and D doesn't know."""
    if details:
        try:
            data = loads_answer(answer.body)
        except ValueError:
            return broken(leg, "its answer is not JSON")
        if isinstance(data, dict) and merge_details(data, details):
            return Reply(200, json.dumps(data, ensure_ascii=False).encode())
    return Reply(200, answer.body, answer.headers.get("content-type", "application/json"))
