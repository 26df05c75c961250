"""Exchanges as data: what a client asked, the legs that went out for it, what engines answered, what the client saw.

`recorded/NAME.json` holds the exchanges of one dialect. Those of Tercet's own engine and of vLLM 0.32 with NIXL were
recorded: this file, run as a program against live workers, sends the legs of every exchange in the file and writes down
what came. Those of Mooncake and P2P-NCCL are the same answers without NIXL's tickets; those of SGLang and TensorRT-LLM
are written by hand after their sources. No machine of ours could run these four.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.core.route import EncodeShare, Rank, Route
from tercet.core.stage import Mode
from tercet.dialects.pictures import Pictures, find_pictures, url_at
from tercet.dialects.protocol import Answer, Dialect, Exchange, Leg, Legs, Reply, Step
from tercet.dialects.registry import dialect_for
from tercet.dialects.request import CHAT_PATH, ClientRequest, dump, read_body
from tercet.dialects.sglang import SglangDialect
from tercet.dialects.trtllm import TrtllmDialect
from tercet.dialects.usage import StreamedUsage
from tercet.http.client import Client
from tercet.http.sse import SSEParser
from tercet.routing.pictures import data_uri_key
from tests.unit.dialects.samples import sent_body

FOLDER = Path(__file__).parent / "recorded"
Case = dict[str, Any]
URLS = {"E": "http://e:8000", "P": "http://p:8000", "D": "http://d:8000"}
ROOM, UNIQUE = 2**62 + 1, 2**42 + 7
"""The numbers that two legs share, which are random otherwise."""
_HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
OWN_HEADERS = (("X-Request-Id", "r1"),)


def load(name: str) -> list[Case]:
    """Return the exchanges of a file."""
    cases: list[Case] = json.loads((FOLDER / f"{name}.json").read_text())
    return cases


def save(name: str, cases: list[Case]) -> None:
    """Write the exchanges of a file: a line for each body or event, so that a change shows where it is."""
    (FOLDER / f"{name}.json").write_text("[\n" + ",\n".join(_lines(case) for case in cases) + "\n]\n")


def _lines(value: Any, indent: str = " ") -> str:
    """Return JSON whose members are broken into lines only as deep as the exchange goes, not inside of bodies."""
    inner = indent + " "
    if isinstance(value, dict) and value.keys() & {"legs", "sent", "answer", "events", "early", "url"}:
        members = (f"{inner}{json.dumps(key)}: {_lines(item, inner)}" for key, item in value.items())
        return "{\n" + ",\n".join(members) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(inner + _lines(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def dialect_of(case: Case) -> Dialect:
    """Return the dialect of an exchange, with the numbers of its legs fixed."""
    said = case["dialect"]
    ports = {URLS[letter]: port for letter, port in said.get("ports", {}).items()}
    dialect = dialect_for(said["name"], ports, said.get("connector", "nixl"), said.get("tokenise_once", False))
    if isinstance(dialect, SglangDialect):
        return replace(dialect, room=lambda: ROOM)
    return replace(dialect, request_id=lambda: UNIQUE) if isinstance(dialect, TrtllmDialect) else dialect


def request_of(case: Case) -> ClientRequest:
    """Return the client's request as the router makes it."""
    path = case["path"]
    body, raw = read_body(dump(case["body"]))
    places = find_pictures(body, 8) if path == CHAT_PATH else ()
    if not places:
        return ClientRequest(path, body, raw, OWN_HEADERS)
    keys = [data_uri_key(url_at(body, place)) for place in places]
    return ClientRequest(path, body, b"", OWN_HEADERS, Pictures(body, places, keys))


def route_of(case: Case) -> Route:
    """Return the route: `E>P>D` with the number of pictures that E encodes by its side, or less of it."""
    ranks = {letter: Rank(letter, 0, url, case.get("ranks", {}).get(letter)) for letter, url in URLS.items()}
    legs = case["route"].split(">")
    pictures = case.get("pictures", 0)
    encode = (EncodeShare(ranks["E"], tuple(range(pictures))),) if "E" in legs else ()
    inline = () if encode else tuple(range(pictures))
    mode = Mode.EPD if encode else Mode.PD
    return Route(mode, ranks["D"], ranks["P"] if "P" in legs else None, encode=encode, inline=inline)


def begun(case: Case) -> Exchange:
    """Return the exchange of a case."""
    return dialect_of(case).begin(request_of(case), route_of(case))


def written(leg: Leg) -> dict[str, Any]:
    """Return a leg as the files hold it. What is random in it is `RANDOM`."""
    body = sent_body(leg)
    sent: dict[str, Any] = {
        "stage": str(leg.stage),
        "url": f"{leg.method} {leg.url}",
        "headers": dict(leg.headers),
        "body": json.loads(body) if body else None,
    }
    if leg.streams:
        sent["streams"] = True
    if leg.usage_details:
        sent["usage_details"] = dict(leg.usage_details)
    masked: dict[str, Any] = json.loads(_HEX.sub("RANDOM", json.dumps(sent)))
    return masked


def answer_of(said: Mapping[str, Any]) -> Answer:
    """Return a recorded answer as it came."""
    if "events" in said:
        events = b"".join(b"data: %b\n\n" % dump(event) for event in said["events"]) + b"data: [DONE]\n\n"
        return Answer(said["status"], {"content-type": "text/event-stream"}, events)
    return Answer(said["status"], {"content-type": "application/json"}, dump(said["json"]))


def told(status: int, body: bytes) -> dict[str, Any]:
    """Return an answer as the files hold it: whole, or as the events of a stream."""
    if not body.startswith(b"data:"):
        return {"status": status, "json": json.loads(body)}
    *events, last = SSEParser().feed(body)
    assert last == "[DONE]", last
    return {"status": status, "events": [json.loads(event) for event in events]}


def streamed(leg: Leg, answer: Answer) -> dict[str, Any] | None:
    """Return the stream that the client sees; None where it is what D said."""
    if not leg.usage_details:
        return None
    rewriter = StreamedUsage(leg.usage_details)
    return told(answer.status, rewriter.feed(answer.body) + rewriter.end())


# --- as a program ---


async def record(case: Case, live: Mapping[str, str], client: Client) -> Case:
    """Send a case's legs to live workers, whose URLs by role are `live`; return it with what was sent and came."""
    exchange, legs, seen = begun(case), [], None
    step: Step = exchange.start()
    while isinstance(step, Legs):
        leg, *others = step.legs
        assert not others or case["dialect"]["name"] == "sglang", "legs side by side are not recorded"
        base = live[leg.rank.letter]
        body = sent_body(leg)
        response = await client.request(
            "POST", base + leg.path, headers=leg.headers, body=body, first_byte_timeout_s=300.0, idle_timeout_s=300.0
        )
        answer = Answer(response.status, response.headers, await response.read())
        legs.append({"sent": written(leg), "answer": told(answer.status, answer.body)})
        if leg.streams and answer.status == 200:
            seen = streamed(leg, answer)
            break
        step = exchange.on_answer(leg, answer)
    else:
        assert isinstance(step, Reply), step
        seen = {"early": step.early, **told(step.status, step.body)}
    kept = {key: value for key, value in case.items() if key not in ("legs", "client", "release")}
    return {**kept, "legs": legs, "client": seen, "release": [written(leg) for leg in exchange.on_exit(False)]}


async def main() -> None:
    """Record anew the cases of a file whose engine and route are served by the workers given."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name")
    for letter, stage in zip("EPD", ("encode", "prefill", "decode"), strict=True):
        parser.add_argument(f"--{stage}", dest=letter, metavar="URL", required=letter != "E")
    parser.add_argument("--model", required=True)
    asked = parser.parse_args()
    client, cases = Client(), []
    for case in load(asked.name):
        print(case["name"], flush=True)
        if ("E" in case["route"] and not asked.E) or case["dialect"].get("connector", "nixl") != "nixl":
            cases.append(case)
        else:
            cases.append(await record({**case, "body": {**case["body"], "model": asked.model}}, vars(asked), client))
    await client.close()
    save(asked.name, cases)


if __name__ == "__main__":
    asyncio.run(main())
