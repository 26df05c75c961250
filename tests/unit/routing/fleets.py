"""Small fleets and requests for tests of routing."""

from __future__ import annotations

from typing import Any

from tercet.core.route import Route
from tercet.core.stage import ROLE_STAGES
from tercet.routing.events import (
    ConversationRecorded,
    Finished,
    ModelsListed,
    PairHealth,
    RankHealth,
    Routed,
    WorkerAdded,
)
from tercet.routing.facts import RequestFacts, chat_facts, completion_facts
from tercet.routing.fleet import FleetState

MODEL = "m"


def url(letter: str, index: int) -> str:
    return f"http://{letter.lower()}{index}:1"


def make_fleet(letters: str, *, ranks: int = 1, ready: bool = True, pairs: bool = True) -> FleetState:
    """`PPD` gives two prefill workers and one decode worker."""
    fleet = FleetState()
    for i, letter in enumerate(letters):
        fleet.apply(WorkerAdded(url(letter, letters[:i].count(letter)), ROLE_STAGES[letter], ranks))
        fleet.apply(ModelsListed(url(letter, letters[:i].count(letter)), (MODEL,)))
    if ready:
        for address in fleet.ranks:
            fleet.apply(RankHealth(address, True))
    if pairs:
        for p in fleet.ranks.values():
            for d in fleet.ranks.values():
                if p.letter == "P" and d.letter == "D":
                    fleet.apply(PairHealth(p.address, d.address, True))
    return fleet


def seeing(*turns: str, session: str | None = None, tokens: int = 16, **extra: Any) -> RequestFacts:
    """A chat whose messages alternate; in the user's each word of the form `[key]` is a picture, `[]` one that only a
    URL tells of."""
    messages: list[dict[str, Any]] = []
    keys: list[str | None] = []
    for i, turn in enumerate(turns):
        parts: list[dict[str, Any]] = []
        for word in turn.split():
            if word.startswith("["):
                keys.append(word[1:-1] or None)
                parts.append({"type": "image_url", "image_url": {"url": "" if word != "[]" else "http://x/y.png"}})
            else:
                parts.append({"type": "text", "text": word})
        messages.append({"role": "assistant", "content": turn} if i % 2 else {"role": "user", "content": parts})
    body = {"model": MODEL, "messages": messages, **extra}
    return chat_facts(body, session, 0.25, keys, lambda _: tokens)


def chat(*texts: str, session: str | None = None, **extra: Any) -> RequestFacts:
    """A chat whose messages alternate between user and assistant."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return chat_facts({"model": MODEL, "messages": messages, **extra}, session, 0.25)


def ids(prompt: list[int], session: str | None = None, **extra: Any) -> RequestFacts:
    return completion_facts({"model": MODEL, "prompt": prompt, **extra}, session, 0.25)


def text(prompt: str, session: str | None = None, **extra: Any) -> RequestFacts:
    return completion_facts({"model": MODEL, "prompt": prompt, **extra}, session, 0.25)


def routed(answer: object) -> Route:
    assert isinstance(answer, Route), answer
    return answer


def serve(fleet: FleetState, facts: RequestFacts, route: Route, name: str, answer_tokens: int) -> None:
    """Let a request run to its end on `route`."""
    fleet.apply(Routed(name, route, facts))
    fleet.apply(Finished(name))
    fleet.apply(ConversationRecorded(facts, route.decode.address, facts.prompt_tokens, answer_tokens))
