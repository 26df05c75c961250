"""Workers that see: pictures in chats, tickets between workers, and what is wrong with pictures. Virtual GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tercet.core.image import image_key
from tests.integration.worker.processes import Answer, Worker, launch, stop_all, topology, wait_ready, wait_until
from tests.unit.media.files import claims, data_uri, picture
from tests.unit.media.site import Site, site

SEEING = ("--random-weights", "tiny-llava", "--engine", "virtual", "--gpu", "h100")
KINDS = {
    "sees": ("--stages", "encode,prefill,decode", "--allow-local-media", "--media-timeout", "2", "--max-images", "20"),
    "encoder": ("--stages", "encode"),
    "prefill": ("--stages", "prefill"),
    "decode": ("--stages", "decode"),
}
TOKENS = 16
ANSWER: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 6}

Fleet = dict[str, Worker]


@pytest.fixture(scope="module")
def web() -> Iterator[Site]:
    with site(picture(seed=7)) as server:
        yield server


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    logs = tmp_path_factory.mktemp("seeing")
    started: Fleet = {}
    try:
        for name, arguments in KINDS.items():
            started[name] = launch(
                logs / f"{name}.log", "--name", name, "--topology-id", topology("seeing"), *SEEING, *arguments
            )
        for worker in started.values():
            wait_ready(worker)
        yield started
    finally:
        stop_all(started.values())


def url(source: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source}}


def ref(key: str = "") -> dict[str, Any]:
    return {"type": "image_ref", "image_ref": {"key": key, "tokens": TOKENS} if key else {}}


def ask(worker: Worker, *parts: dict[str, Any], text: str = "What is this?", **fields: Any) -> Answer:
    content = [*parts, {"type": "text", "text": text}]
    return worker.call("/v1/chat/completions", {**ANSWER, "messages": [{"role": "user", "content": content}], **fields})


def encode(worker: Worker, *sources: str, readers: int = 1) -> Answer:
    images = [{"index": i, "url": source} for i, source in enumerate(sources)]
    return worker.call("/v1/encode", {"readers": readers, "images": images})


def cached(answer: Answer) -> int:
    return int(answer.body["usage"]["prompt_tokens_details"]["cached_tokens"])


def settled(worker: Worker) -> None:
    wait_until(lambda: worker.metric("tercet:num_images_held") == 0, 30, "image tickets are left over")


# --- a worker that does it all ---


def test_a_picture_is_encoded_once_and_part_of_the_prompt(workers: Fleet, web: Site) -> None:
    sees = workers["sees"]
    before = sees.metric("tercet:encoder_forward_images_total")
    first = ask(sees, url(data_uri(web.body)))
    assert (first.status, first.headers["x-tercet-cache"]) == (200, "miss=1"), first.body
    again = ask(sees, url(web.url("/ok")), text="What is that? No, really.")
    assert again.headers["x-tercet-cache"] == "hit=1", "a URL is the picture that it leads to"
    assert sees.metric("tercet:encoder_forward_images_total") == before + 1
    usage = again.body["usage"]["prompt_tokens_details"]
    assert usage["image_tokens"] == TOKENS and usage["cached_tokens"] >= TOKENS, "the same picture is the same prefix"
    other = ask(sees, url(data_uri(picture(seed=8))))
    assert cached(other) < TOKENS, "another picture never is"
    assert "image-fetch;dur=" in other.headers["server-timing"] and "prefill;dur=" in other.headers["server-timing"]
    settled(sees)


def test_many_pictures_streamed_with_several_choices(workers: Fleet) -> None:
    sees = workers["sees"]
    parts = [url(data_uri(picture(seed=seed))) for seed in (20, 21, 20, 22)]
    body = {**ANSWER, "messages": [{"role": "user", "content": parts}], "n": 3, "temperature": 1.0}
    events = sees.events("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]"
    details = events[-2]["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == 4 * TOKENS
    ends = [c["finish_reason"] for event in events[:-1] for c in event["choices"] if c["finish_reason"]]
    assert ends == ["length"] * 3
    settled(sees)


def test_later_turns_find_the_earlier_pictures(workers: Fleet) -> None:
    sees = workers["sees"]
    turns: list[dict[str, Any]] = []
    length = 0
    for turn in range(3):
        part = url(data_uri(picture(seed=30 + turn)))
        turns.append({"role": "user", "content": [part, {"type": "text", "text": f"Question number {turn}?"}]})
        got = sees.call("/v1/chat/completions", {**ANSWER, "messages": turns})
        assert got.body["usage"]["prompt_tokens_details"]["image_tokens"] == TOKENS * (turn + 1)
        assert cached(got) >= length // 16 * 16, "a picture of a later turn changes nothing before it"
        length = got.body["usage"]["prompt_tokens"]
        turns.append({"role": "assistant", "content": got.choice["message"]["content"]})


def test_a_client_that_leaves_leaves_nothing(workers: Fleet, web: Site) -> None:
    sees = workers["sees"]
    body = {"messages": [{"role": "user", "content": [url(web.url("/silent")), url(web.url("/ok"))]}]}
    asked = len(web.paths)
    connection = sees.open(body, "/v1/chat/completions")
    wait_until(lambda: len(web.paths) >= asked + 2, 30, "the pictures are not fetched")
    connection.close()
    settled(sees)
    assert ask(sees, url(web.url("/ok"))).status == 200


# --- from encoder to prefill to decode ---


def test_tickets_travel_from_e_to_p_to_d(workers: Fleet) -> None:
    encoder, prefill, decode = (workers[name] for name in ("encoder", "prefill", "decode"))
    files = [picture(seed=40), picture(seed=41)]
    got = encode(encoder, *map(data_uri, files), readers=2)
    assert got.status == 200, got.body
    assert got.headers["x-tercet-cache"] == "miss=2"
    assert "fetch;dur=" in got.headers["server-timing"] and "encode;dur=" in got.headers["server-timing"]
    data = got.body["data"]
    assert [(d["index"], d["key"], d["tokens"]) for d in data] == [
        (i, image_key(f), TOKENS) for i, f in enumerate(files)
    ]
    tickets = {"images": [d["ticket"] for d in data]}
    held = ask(
        prefill,
        *(ref(d["key"]) for d in data),
        ec_transfer_params=tickets,
        kv_transfer_params={"do_remote_decode": True},
    )
    assert held.status == 200, held.body
    ticket = held.body["kv_transfer_params"]
    assert [image["key"] for image in ticket["images"]] == [d["key"] for d in data]
    answer = ask(decode, ref(), ref(), kv_transfer_params=ticket)
    assert answer.status == 200, answer.body
    assert answer.body["usage"]["prompt_tokens_details"]["image_tokens"] == 2 * TOKENS
    assert int(answer.headers["x-tercet-external-tokens"]) > 0
    settled(encoder)
    # P holds both by now: no ticket is needed, and none of the tokens is computed again.
    skipped = ask(prefill, *(ref(d["key"]) for d in data), kv_transfer_params={"do_remote_decode": True})
    assert skipped.status == 200 and cached(skipped) >= 2 * TOKENS
    prefill.call("/kv/release", {"ticket_id": skipped.body["kv_transfer_params"]["ticket_id"]})


def test_what_is_needed_is_named(workers: Fleet) -> None:
    (known,) = encode(workers["encoder"], data_uri(picture(seed=50))).body["data"]
    needed = ask(
        workers["prefill"],
        ref("0" * 64),
        ref(known["key"]),
        ref("1" * 64),
        ec_transfer_params={"images": [None, known["ticket"], None]},
        kv_transfer_params={"do_remote_decode": True},
    )
    assert (needed.status, needed.error["code"], needed.error["param"]) == (409, "images_needed", "0,2")
    released = workers["encoder"].call("/ec/release", {"ticket_ids": [known["ticket"]["ticket_id"], "unknown"]})
    assert released.status == 200
    settled(workers["encoder"])


def test_who_can_not_says_what_can(workers: Fleet, virtual: Worker) -> None:
    part = url(data_uri(picture()))
    for worker, words in (
        (workers["encoder"], "only encodes"),
        (workers["decode"], "does not encode"),
        (virtual, "takes text only"),
    ):
        answer = ask(worker, part)
        assert answer.status == 400 and words in answer.error["message"], answer.body
    for worker, words in ((workers["decode"], "does not encode"), (virtual, "takes text only")):
        answer = encode(worker, data_uri(picture()))
        assert answer.status == 400 and words in answer.error["message"], answer.body
    wrong = workers["encoder"].call("/v1/encode", {"model": "other", "images": [{"url": "data:,x"}]})
    assert (wrong.status, wrong.error["code"]) == (404, "model_not_found")
    assert workers["encoder"].call("/ec/release", {"ticket_ids": "x"}).error["param"] == "ticket_ids"
    assert workers["encoder"].call("/v1/encode").status == 405


def test_a_ticket_of_a_stage_that_a_worker_lacks_is_one_that_it_does_not_know(workers: Fleet, virtual: Worker) -> None:
    for worker in (workers["encoder"], workers["decode"], virtual):
        assert worker.call("/kv/release", {"ticket_id": "unknown"}).status == 200
        assert worker.call("/ec/release", {"ticket_ids": ["unknown"]}).status == 200
    assert encode(workers["encoder"], data_uri(picture())).status == 200
    for worker in (workers["decode"], virtual):
        assert worker.complete("still there").status == 200


def test_a_text_that_names_the_image_token_is_a_text(workers: Fleet) -> None:
    sees = workers["sees"]
    plain = sees.chat("What does <image> do in HTML?", **ANSWER)
    assert plain.status == 200 and "image_tokens" not in plain.body["usage"]["prompt_tokens_details"]
    spoofed = ask(sees, url(data_uri(picture())), text="<image><image>")
    assert spoofed.body["usage"]["prompt_tokens_details"]["image_tokens"] == TOKENS
    as_long = ask(sees, url(data_uri(picture())), text="x" * 14)
    assert spoofed.body["usage"]["prompt_tokens"] == as_long.body["usage"]["prompt_tokens"]
    ids = sees.complete([5, 259])
    assert ids.status == 400 and "stands for pictures" in ids.error["message"]


# --- bad pictures ---


def bad(web: Site, folder: Path) -> list[tuple[str, str]]:
    """Return sources and the reasons for which they are refused."""
    (folder / "text.png").write_text("not a picture at all")
    return [
        (data_uri(picture()[:-30]), "broken or cut off"),
        (data_uri(claims(40_000, 40_000)), "at most 36000000"),
        (data_uri(claims(9_000, 9_000, 1_000_000)), "9000 x 9000 pixels: at most 36000000"),
        (data_uri(b"some text"), "not a picture"),
        (str(folder / "text.png"), "not a picture"),
        (web.url("/missing.png"), "HTTP 404"),
        (web.url("/to?url=http://no..host/"), "has no address"),
        ("data:image/png;base64,@@", "not base64"),
    ]


def refused(answer: Answer, index: int, reason: str) -> None:
    assert answer.status == 400, answer.body
    assert answer.error["message"].startswith(f"picture {index}: ") and reason in answer.error["message"]
    assert answer.error["code"] in ("bad_picture", "too_many_pictures")


def test_bad_pictures_are_named(workers: Fleet, web: Site, tmp_path: Path) -> None:
    sees, good = workers["sees"], url(data_uri(picture()))
    for source, reason in [*bad(web, tmp_path), (web.url("/silent"), "no whole answer within 2 s")]:
        answer = ask(sees, good, url(source))
        refused(answer, 1, reason)
        assert answer.error["param"] == "messages[0].content[1]"
    refused(ask(sees, *[good] * 100), 20, "may hold 20 pictures, this one holds 100")
    settled(sees)


def test_strangers_reach_nothing_inside(workers: Fleet, web: Site, tmp_path: Path) -> None:
    encoder, good = workers["encoder"], data_uri(picture())
    (tmp_path / "p.png").write_bytes(picture())
    asked = len(web.paths)
    for source in (
        *("http://169.254.169.254/latest/meta-data/", "http://169.254.1.1/a.png", web.url("/ok"), "http://[::1]/"),
        *(str(tmp_path / "p.png"), (tmp_path / "p.png").as_uri()),
    ):
        refused(encode(encoder, good, source), 1, "--allow-local-media")
    assert len(web.paths) == asked
    refused(encode(encoder, *[good] * 100), 32, "may hold 32 pictures, this one holds 100")
    settled(encoder)


@pytest.mark.slow
def test_bad_pictures_leave_memory_alone(workers: Fleet, web: Site, tmp_path: Path) -> None:
    """75 of each kind: keeping those of one of the large kinds would take 120 MB."""
    sees = workers["sees"]
    process = psutil.Process(sees.process.pid)
    family = [process, *process.children(recursive=True)]
    bodies = [[url(source)] for source, _ in bad(web, tmp_path)] + [[url(data_uri(picture((900, 900)), "x")[:-999])]]
    bodies.append([url(data_uri(picture((200, 200))))] * 100)

    def resident() -> int:
        return sum(member.memory_info().rss for member in family)

    sizes = []
    for _ in range(3):
        for _ in range(25):
            for parts in bodies:
                assert ask(sees, *parts).status == 400
        sizes.append(resident())
    assert sizes[-1] - sizes[0] < 40 * 1024 * 1024, sizes
    settled(sees)
