"""The OpenAI side of one worker that serves whole requests."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.integration.worker.processes import Worker

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
PROMPT = "A small brown fox"


def streamed_text(events: list[Any], chat: bool) -> str:
    choices = [c for event in events[:-1] for c in event["choices"]]
    return "".join(c["delta"]["content"] if chat else c["text"] for c in choices)


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_says_what_the_whole_answer_says(whole: Worker, chat: bool) -> None:
    body: dict[str, Any] = {**GREEDY, "max_tokens": 24, "return_token_ids": True}
    body |= {"messages": [{"role": "user", "content": PROMPT}]} if chat else {"prompt": PROMPT}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    answer = whole.call(path, body).body
    events = whole.events(path, {**body, "stream_options": {"include_usage": True}})
    assert events.pop() == "[DONE]"
    usage = events.pop()
    assert usage["choices"] == []
    assert usage["usage"] == answer["usage"] | {"prompt_tokens_details": usage["usage"]["prompt_tokens_details"]}
    assert answer["usage"]["completion_tokens"] == 24
    assert streamed_text([*events, ""], chat) == (
        answer["choices"][0]["message"]["content"] if chat else answer["choices"][0]["text"]
    )
    ids = [i for event in events for i in event["choices"][0]["token_ids"]]
    assert ids == answer["choices"][0]["token_ids"] and len(ids) == 24
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["length"]
    assert {event["object"] for event in events} == {"chat.completion.chunk" if chat else "text_completion"}
    assert {event["id"].split("-")[0] for event in events} == {"chatcmpl" if chat else "cmpl"}
    if chat:
        assert events[0]["choices"][0]["delta"]["role"] == "assistant" and len(events) > 2
        assert all("role" not in event["choices"][0]["delta"] for event in events[1:])
        assert events[0]["prompt_token_ids"] == answer["prompt_token_ids"]
        assert "prompt_token_ids" not in answer["choices"][0]
    else:
        assert events[0]["choices"][0]["prompt_token_ids"] == answer["choices"][0]["prompt_token_ids"]
        assert "prompt_token_ids" not in answer and "prompt_token_ids" not in events[1]["choices"][0]


def test_token_ids_only_when_asked_for(whole: Worker) -> None:
    for answer in (whole.complete(PROMPT, max_tokens=2), whole.chat(PROMPT, max_tokens=2)):
        assert "token_ids" not in str(answer.body)


def test_n_list_prompts_and_usage(whole: Worker) -> None:
    prompts = ["first prompt of some length, more than a block", "second one"]
    answer = whole.complete(prompts, n=2, max_tokens=6, seed=3, return_token_ids=True, ignore_eos=True).body
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    ids = [c["token_ids"] for c in answer["choices"]]
    assert ids[0] != ids[1], "every choice has a seed of its own"
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert answer["usage"]["completion_tokens"] == 24
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached <= answer["usage"]["prompt_tokens"], "a prompt counts once, however many choices it has"
    for index, prompt in enumerate(prompts):
        tokens = answer["choices"][2 * index]["prompt_token_ids"]
        alone = whole.complete(tokens, max_tokens=6, seed=3, return_token_ids=True, ignore_eos=True)
        assert alone.choice["token_ids"] == ids[2 * index], prompt
    events = whole.events(
        "/v1/completions", {"prompt": prompts, "n": 2, "max_tokens": 6, "seed": 3, "ignore_eos": True}
    )
    texts = [""] * 4
    for event in events[:-1]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == [c["text"] for c in answer["choices"]]


def test_a_repeated_prompt_is_cached(whole: Worker) -> None:
    prompt = "A prompt that no other test sends, to be found in the cache."
    first, second = (whole.complete(prompt, max_tokens=1) for _ in range(2))
    assert first.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second.body["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == (len(prompt) - 1) // 16 * 16
    assert second.headers["x-tercet-cached-tokens"] == str(cached)
    assert second.headers["x-tercet-prompt-tokens"] == str(len(prompt))
    assert second.headers["x-tercet-external-tokens"] == "0" and "x-tercet-recomputed" not in second.headers
    assert "prefill;dur=" in second.headers["server-timing"]
    salted = whole.complete(prompt, max_tokens=1, cache_salt="s")
    assert salted.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_echo(whole: Worker) -> None:
    plain = whole.complete(PROMPT, max_tokens=4, **GREEDY).choice["text"]
    assert whole.complete(PROMPT, max_tokens=4, echo=True, **GREEDY).choice["text"] == PROMPT + plain
    tokens = whole.complete(PROMPT, max_tokens=1, return_token_ids=True).choice["prompt_token_ids"]
    assert whole.complete(tokens, max_tokens=4, echo=True, **GREEDY).choice["text"] == PROMPT + plain
    events = whole.events("/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "echo": True, **GREEDY})
    assert streamed_text(events, chat=False) == PROMPT + plain


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(whole: Worker, stream: bool) -> None:
    text = whole.complete(PROMPT, max_tokens=30, **GREEDY).choice["text"]
    stop = text[10:13]
    body = {"prompt": PROMPT, "max_tokens": 30, "stop": [stop, "never seen"], **GREEDY}
    if stream:
        events = whole.events("/v1/completions", body)
        got, last = streamed_text(events, chat=False), events[-2]["choices"][0]
    else:
        last = whole.call("/v1/completions", body).choice
        got = last["text"]
    assert got == text[: text.index(stop)]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)


def test_min_tokens_delay_a_stop_string(whole: Worker) -> None:
    answer = whole.complete(PROMPT, max_tokens=30, return_token_ids=True, **GREEDY).choice
    stop = answer["text"][0]
    early = whole.complete(PROMPT, max_tokens=30, stop=stop, return_token_ids=True, **GREEDY).choice
    late = whole.complete(PROMPT, max_tokens=30, stop=stop, min_tokens=5, return_token_ids=True, **GREEDY).choice
    assert len(early["token_ids"]) < 5 < len(late["token_ids"])


def test_stop_tokens_name_themselves(whole: Worker) -> None:
    ids = whole.complete(PROMPT, max_tokens=8, return_token_ids=True, **GREEDY).choice["token_ids"]
    answer = whole.complete(PROMPT, max_tokens=8, stop_token_ids=[ids[5]], return_token_ids=True, **GREEDY).choice
    assert answer["token_ids"] == ids[: ids.index(ids[5]) + 1]
    assert (answer["finish_reason"], answer["stop_reason"]) == ("stop", ids[5])


def test_logprobs(whole: Worker) -> None:
    body = {"prompt": PROMPT, "max_tokens": 8, "logprobs": 2, "seed": 1, "ignore_eos": True}
    answer = whole.call("/v1/completions", body).choice
    names = answer["logprobs"]["tokens"]
    assert len(names) == 8 and all(p <= 0 for p in answer["logprobs"]["token_logprobs"])
    for name, logprob, top in zip(
        names, answer["logprobs"]["token_logprobs"], answer["logprobs"]["top_logprobs"], strict=True
    ):
        assert top[name] == logprob, "the chosen token is always named"
        assert 1 <= len(top) <= 3
    events = [e["choices"][0]["logprobs"] for e in whole.events("/v1/completions", body)[:-1]]
    for field in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [x for e in events for x in e[field]] == answer["logprobs"][field]
    chat = whole.chat(PROMPT, max_tokens=5, logprobs=True, top_logprobs=3, **GREEDY).choice
    content = chat["logprobs"]["content"]
    assert len(content) == 5 and all(len(entry["top_logprobs"]) == 3 for entry in content)
    assert all(entry["logprob"] == entry["top_logprobs"][0]["logprob"] for entry in content), "greedy takes the best"
    joined = b"".join(bytes(entry["bytes"]) for entry in content).decode("utf-8", "replace")
    assert joined == chat["message"]["content"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/completions", {"prompt": "a", "model": "nope"}, 404, "model"),
        ("/v1/completions", {"prompt": [1] * 5000}, 400, "prompt"),
        ("/v1/completions", {"prompt": "x" * 60_000}, 400, "prompt"),
        ("/v1/completions", {"prompt": "a", "response_format": "json"}, 400, "response_format"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/completions", b"{", 400, None),
        ("/v1/nothing", {}, 404, None),
        ("/v1/models", {}, 405, None),
        ("/kv/release", {}, 400, "ticket_id"),
        ("/kv/release", {"ticket_id": "\ud800"}, 400, "ticket_id"),
        ("/ec/release", {"ticket_ids": ["t", "\ud800"]}, 400, "ticket_ids"),
    ],
)
def test_what_is_refused(
    whole: Worker, path: str, body: dict[str, Any] | bytes, status: int, param: str | None
) -> None:
    answer = whole.call(path, body)
    assert answer.status == status, answer
    assert answer.error["param"] == param


def test_who_names_no_model_gets_the_one_there_is(whole: Worker) -> None:
    for model in (None, ""):
        assert whole.complete("a", model=model, max_tokens=1).status == 200


def test_models_health_ready_metrics(whole: Worker) -> None:
    (model,) = whole.call("/v1/models").body["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("random-tiny", "model", 4096)
    health, ready = whole.call("/health"), whole.call("/ready")
    assert (health.status, ready.status) == (200, 200)
    assert health.body["status"] == "ok" and health.body["engine_id"] == whole.engines()[0]["engine_id"]
    before = whole.metric("vllm:generation_tokens_total"), whole.metric("vllm:request_success_total")
    whole.complete(PROMPT, max_tokens=7, n=2, ignore_eos=True)
    assert whole.metric("vllm:generation_tokens_total") == before[0] + 14
    assert whole.metric("vllm:request_success_total", finished_reason="length") >= 2
    text = str(whole.call("/metrics").body)
    assert "_created" not in text
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"):
        assert f'vllm:{name}_bucket{{le="+Inf",rank="0"}}' in text
    whole.wait_idle()
    assert whole.metric("vllm:kv_cache_usage_perc") == 0
    assert whole.metric("tercet:kv_blocks_cached") > 0
    assert whole.call("/cache/reset", b"").body == {"reset": True}
    whole.wait_idle()
    assert whole.metric("tercet:kv_blocks_cached") == 0


def test_request_id(whole: Worker) -> None:
    answer = whole.call("/v1/completions", {"prompt": "a", "max_tokens": 1}, X_Request_Id="mine-1")
    assert (answer.headers["x-request-id"], answer.body["id"]) == ("mine-1", "cmpl-mine-1")
    bad = whole.call("/v1/completions", {"prompt": "a", "max_tokens": 1}, X_Request_Id="not one")
    assert bad.headers["x-request-id"] != "not one"


def test_the_openai_client(whole: Worker) -> None:
    client = openai.OpenAI(base_url=f"{whole.url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(
        model="random-tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=5, logprobs=True
    )
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content
    stream = client.completions.create(model="random-tiny", prompt="Hi", max_tokens=5, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("length", "stop")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="random-tiny", prompt="Hi", top_p=7)


def test_a_stream_begins_with_the_first_token_even_without_text(whole: Worker) -> None:
    text = whole.complete(PROMPT, max_tokens=200, **GREEDY).choice["text"]
    body = {"prompt": PROMPT, "max_tokens": 200, "stream": True, "stop": text + "!", **GREEDY}
    with whole.open(body) as connection:
        connection.settimeout(5)
        head = connection.recv(100_000)
        assert head.startswith(b"HTTP/1.1 200") and b"data:" not in head
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += connection.recv(100_000)
    assert rest.count(b"data: {") == 1, "all text was held back until the end"


def test_a_body_that_is_nested_too_deeply_is_refused_at_any_depth(virtual: Worker) -> None:
    """Where it can just be read, what looks through it once more finds it too deep."""
    statuses = set()
    for depth in range(850, 1050):
        body = f'{{"prompt": {{"a": {"[" * depth}{"]" * depth}}}}}'
        statuses.add(virtual.call("/v1/completions", body.encode()).status)
    assert statuses == {400}


@pytest.mark.parametrize(
    "fields", [{"temperature": 1e-40}, {"temperature": 1e-40, "top_k": 5}, {"stop_token_ids": "all", "min_tokens": 2}]
)
def test_no_wish_about_sampling_ends_the_engine(whole: Worker, fields: dict[str, Any]) -> None:
    pid = whole.engines()[0]["pid"]
    if "stop_token_ids" in fields:
        fields = {**fields, "stop_token_ids": list(range(whole.call("/v1/models").body["data"][0]["vocab_size"]))}
    answer = whole.complete(PROMPT, max_tokens=4, seed=1, **fields)
    assert answer.status == 200 and answer.body["usage"]["completion_tokens"] >= 2
    assert whole.engines()[0]["pid"] == pid
