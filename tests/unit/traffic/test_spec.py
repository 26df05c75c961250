"""A run's traffic: loads, durations, data sets and pictures."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tercet.core.errors import UsageError
from tercet.results.codec import decode, encode
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.conversation import Conversation, TokenRange
from tercet.traffic.pictures import Pictures
from tercet.traffic.prompts import PromptForm, Prompts, Said
from tercet.traffic.reading import Reading
from tercet.traffic.scripts import read_dataset
from tercet.traffic.spec import LoadKind, TrafficSpec, conversations, iter_conversations
from tercet.traffic.workload import Workload, workload_from_name

SPEC = TrafficSpec(Workload("t", 16, 8), qps=10.0, num_requests=0, duration_s=2.05, arrivals=Arrivals.CONSTANT)
CHAT = Prompts(PromptForm.CHAT)


def made(spec: TrafficSpec, prompts: Prompts | None = None) -> tuple[Conversation, ...]:
    talks = conversations(spec, salt="s", tokens=TokenRange(), prompts=prompts)
    assert all(isinstance(talk, Conversation) for talk in talks)
    return talks  # type: ignore[return-value]


def lines(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_a_duration_bounds_an_open_loop_and_a_number_bounds_it_too() -> None:
    assert len(made(SPEC)) == 21
    assert len(made(replace(SPEC, num_requests=5))) == 5


def test_a_closed_loop_without_a_number_never_ends() -> None:
    closed = SPEC.at(LoadKind.CONCURRENCY, 4)
    assert (closed.load_kind, closed.load, closed.at(LoadKind.QPS, 3.0).load) == ("concurrency", 4.0, 3.0)
    talks = list(islice(iter_conversations(closed, salt="s", tokens=TokenRange()), 1000))
    assert len({talk.id for talk in talks}) == 1000 and not any(talk.arrival_s for talk in talks)


def test_groups_share_their_prefix() -> None:
    talks = made(replace(SPEC, workload=Workload("p", 16, 8, prefix_tokens=12, prefix_groups=3)))
    heads = [tuple(talk.new_tokens(0)[:12]) for talk in talks]
    assert len(set(heads)) == 3 and heads[0] == heads[3] and len({tuple(talk.new_tokens(0)) for talk in talks}) == 21
    with pytest.raises(UsageError, match="--prefix-tokens"):
        Workload("p", 16, 8, prefix_tokens=16)


def test_first_turns_may_be_warm_where_they_share_something(tmp_path: Path) -> None:
    """Elsewhere cached tokens of a first turn make a run invalid."""
    trace = read_dataset(lines(tmp_path / "t.jsonl", {"input_length": 9, "output_length": 7, "hash_ids": [1]}))
    sharing = (
        replace(SPEC, dataset=trace),
        replace(SPEC, workload=Workload("p", 16, 8, prefix_tokens=12)),
        replace(SPEC, workload=replace(SPEC.workload, pictures=Pictures(pool=3))),
    )
    assert all(spec.shares_prefixes for spec in sharing)
    assert not SPEC.shares_prefixes
    assert not replace(SPEC, workload=replace(SPEC.workload, pictures=Pictures(pool=0))).shares_prefixes


def test_words_make_the_tokens_that_a_server_was_found_to_count() -> None:
    prompts = Prompts(PromptForm.TEXT, first_overhead=10, later_overhead=4, tokens_per_word=1.25)
    assert (prompts.words(110, 0), prompts.words(54, 1), prompts.words(1, 0)) == (80, 40, 1)
    assert (prompts.tokens(80, 0), prompts.tokens(40, 1)) == (110, 54)


def test_pictures_are_counted_distinct_and_need_a_chat() -> None:
    spec = replace(SPEC, workload=replace(workload_from_name("images"), pictures=Pictures(1, 4, 40, 20)))
    talks = made(spec, CHAT)
    assert {len(talk.pictures) for talk in talks} == {1, 2, 3, 4}
    shown = [picture for talk in talks for picture in talk.pictures]
    assert len(set(shown)) == len(shown)
    parts = talks[0].request_body(0, [], model="m")["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url"] * len(talks[0].pictures) + ["text"]
    assert talks[0].images(0) == len(talks[0].pictures) and talks[0].prompt_tokens(0) is None
    assert made(spec)[0].prompts.form is PromptForm.CHAT
    with pytest.raises(UsageError, match="chat"):
        made(spec, Prompts(PromptForm.TEXT))


def test_a_pool_of_pictures_rotates() -> None:
    spec = replace(SPEC, workload=replace(workload_from_name("images"), pictures=Pictures(2, 2, 32, 32, pool=3)))
    counts = Counter(picture for talk in made(replace(spec, num_requests=3), CHAT) for picture in talk.pictures)
    assert sorted(counts.values()) == [2, 2, 2]


def test_a_mooncake_trace_is_replayed_with_its_prefixes(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "trace.jsonl",
        {"timestamp": 9000, "input_length": 1100, "output_length": 7, "hash_ids": [1, 2, 9]},
        {"timestamp": 8000, "input_length": 1000, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 12000, "input_length": 600, "output_length": 6, "hash_ids": [1, 3]},
    )
    dataset = read_dataset(path)
    assert dataset.kind == "trace" and dataset.timed
    spec = replace(SPEC, dataset=dataset, arrivals=Arrivals.TRACE, speed=2.0, duration_s=None, num_requests=3)
    talks = made(spec)
    assert [talk.arrival_s for talk in talks] == [0.0, 0.5, 2.0]
    assert [(talk.prompt_tokens(0), talk.turns[0].output_tokens) for talk in talks] == [(1000, 5), (1100, 7), (600, 6)]
    prompts = [talk.new_tokens(0) for talk in talks]
    assert prompts[0][:1000] == prompts[1][:1000] and prompts[0][:512] == prompts[2][:512]
    assert prompts[0][512:600] != prompts[2][512:600]
    assert len(made(replace(spec, duration_s=1.0))) == 2 and spec.longest == 1107


def test_sharegpt_conversations_are_asked_as_written(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    said = [("human", "Why?"), ("gpt", "Because of it."), ("human", "And then?"), ("gpt", "x" * 40)]
    talk = {"conversations": [{"from": who, "value": text} for who, text in said]}
    upside_down = {"conversations": [{"from": "gpt", "value": "Hello."}, {"from": "human", "value": "Hi."}]}
    path.write_text(json.dumps([upside_down, talk]))
    dataset = read_dataset(path)
    assert dataset.kind == "sharegpt" and len(dataset.scripts) == 1
    spec = replace(SPEC, dataset=dataset, num_requests=3, duration_s=None)
    first, second = conversations(spec, salt="s", tokens=TokenRange(), prompts=CHAT)
    assert isinstance(first, Reading) and [turn.output_tokens for turn in first.turns] == [3, 10]
    messages = first.request_body(1, [Said("Since.")], model="m")["messages"]
    assert messages[0]["content"].endswith("\nWhy?") and messages[1:] == [
        {"role": "assistant", "content": "Since."},
        {"role": "user", "content": "And then?"},
    ]
    # No run and no repetition of a text is served from another's cache.
    assert second.request_body(0, [], model="m")["messages"] != first.request_body(0, [], model="m")["messages"]


def test_a_texts_tokens_are_estimated_from_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}
    said = [{"role": "system", "content": "b" * 40}, {"role": "user", "content": [picture, {"text": "a" * 80}]}]
    path = lines(tmp_path / "mine.jsonl", {"messages": said}, {"prompt": "c" * 20}, {"messages": [{"role": "user"}]})
    turns = read_dataset(path).turns
    monkeypatch.setattr(json, "loads", None)  # a plan asks thousands of times: pictures are not read again each time
    assert [(turn.new_tokens, turn.images) for turn in turns] == [(30, 1), (5, 0), (1, 0)]


@pytest.mark.parametrize(("count", "parts"), [(5, 3), (6, 4), (9, 7), (8, 6), (11, 9), (3, 1)])
def test_other_parts_of_a_data_set_begin_elsewhere(tmp_path: Path, count: int, parts: int) -> None:
    path = lines(tmp_path / "mine.jsonl", *({"prompt": f"{i}"} for i in range(count)))
    dataset = read_dataset(path)
    found = [dataset.part(3, which) for which in range(parts + 1)]
    assert all(len(part.scripts) == 3 for part in found) and not any(part.timed for part in found)
    assert len({part.fingerprint for part in found[:-1]}) == parts, "as many as there are"
    assert found[0].scripts == found[-1].scripts == dataset.scripts[:3]


def test_turns_flow_at_the_asked_rate_though_a_data_sets_conversations_have_fewer(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    said = [[{"from": who, "value": "x" * 40} for _ in range(turns) for who in ("human", "gpt")] for turns in (1, 4, 1)]
    path.write_text(json.dumps([{"conversations": each} for each in said]))
    spec = replace(SPEC, dataset=read_dataset(path, turns=4), turns=4, num_requests=60, duration_s=None)
    talks = conversations(spec, salt="s", tokens=TokenRange(), prompts=CHAT)
    assert sum(len(talk.turns) for talk in talks) == spec.requests == 60
    # A conversation has two turns in the mean: at ten turns a second five begin in each.
    assert len(talks) == 30 and talks[-1].arrival_s == pytest.approx(29 / 5)
    assert [replace(spec, num_requests=asked).requests for asked in (1, 2, 6, 7, 8)] == [1, 5, 6, 7, 11]
    assert replace(spec, num_requests=0, duration_s=9.0).requests == 0


def test_lines_with_time_stamps_are_sent_once(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.jsonl", *({"prompt": "x" * 40, "max_tokens": 4, "timestamp": i} for i in range(3)))
    spec = replace(SPEC, dataset=read_dataset(path), arrivals=Arrivals.TRACE, num_requests=64, duration_s=None)
    assert spec.requests == 3 == len(conversations(spec, salt="s", tokens=TokenRange(), prompts=CHAT))
    assert replace(spec, arrivals=Arrivals.POISSON).requests == 64, "at another rate they come again"


def test_files_of_any_editor_are_read(tmp_path: Path) -> None:
    mark, rare = b"\xef\xbb\xbf", "one\u2028two\x85three"
    entries = [{"prompt": rare, "max_tokens": 3}, {"prompt": "b"}]
    text = "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\r\n"
    (tmp_path / "d.jsonl").write_bytes(mark + text.encode())
    read = read_dataset(tmp_path / "d.jsonl")
    assert [script.turns[0].text for script in read.scripts] == [rare, "b"]
    talk = [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]
    (tmp_path / "s.json").write_bytes(mark + json.dumps(talk).encode())
    assert read_dataset(tmp_path / "s.json").kind == "sharegpt"


def test_custom_lines_are_prompts_or_chats(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    path = lines(
        tmp_path / "mine.jsonl",
        {"prompt": "Say it.", "max_tokens": 9, "timestamp": 100},
        {"messages": [{"role": "user", "content": [picture]}], "timestamp": 200},
    )
    dataset = read_dataset(path)
    assert dataset.kind == "jsonl" and dataset.timed and not read_dataset(path, limit=1).scripts[0].made_up
    spec = replace(SPEC, dataset=dataset, num_requests=2, arrivals=Arrivals.TRACE)
    first, second = conversations(spec, salt="s", tokens=TokenRange(), prompts=CHAT)
    assert first.turns[0].output_tokens == 9 and second.arrival_s == pytest.approx(0.1)
    content = second.request_body(0, [], model="m")["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] and second.images(0) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no conversation"),
        ("{nothing", "line 1"),
        ('{"prompt": "a"}\n{"other": 1}', 'line 2: it has neither "prompt"'),
        ('{"input_length": 0}', "an input of 0"),
        ('{"prompt": "a", "max_tokens": 0}', "0 output tokens"),
        ('{"messages": "a"}', 'line 1: its "messages" are no list of messages'),
        ('{"messages": []}', 'line 1: its "messages" are no list of messages'),
        ("[1]", "ShareGPT"),
        ('[{"conversations": ["a", "b"]}]', "entry 0 holds what is no message"),
        ('{"prompt": "a", "timestamp": NaN}', "line 1: its timestamp is nan"),
        ('{"prompt": "a", "max_tokens": Infinity}', "line 1: "),
        ("[oh", "not JSON"),
    ],
)
def test_a_data_set_that_is_none_is_refused_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "d"
    path.write_text(text)
    with pytest.raises(UsageError, match=why) as caught:
        read_dataset(path)
    assert str(path) in str(caught.value)


def test_traffic_survives_its_way_to_another_process(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", {"timestamp": 0, "input_length": 9, "output_length": 7, "hash_ids": [1]})
    pictures = replace(SPEC.workload, pictures=Pictures(1, 3, 8, 8))
    spec = replace(SPEC, workload=pictures, dataset=read_dataset(path), arrivals=Arrivals.GAMMA, burstiness=0.5)
    sent: dict[str, Any] = json.loads(json.dumps(encode(spec)))
    again = decode(TrafficSpec, sent)
    assert again == spec and again.arrivals is Arrivals.GAMMA
    prompts = Prompts(PromptForm.CHAT, 3, extra={"top_p": 0.5, "deep": {"x": [1]}})
    assert decode(Prompts, json.loads(json.dumps(encode(prompts)))) == prompts
