"""Who encodes which picture of a request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from tercet.core.route import EncodeShare, NamedPicture, Rank, Route
from tercet.core.stage import Stage
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.policy import Policy
from tercet.routing.question import Question, none_ready
from tercet.routing.refusal import Refusal


def place_pictures(question: Question, way: Route) -> Route | Refusal:
    """Return the route with a place for every picture of the request: an encode rank, the rank that prefills, or none
    because that holds it already."""
    everything = range(len(question.facts.pictures))
    if question.mode.encodes_apart:
        lacks = lacking(question, way.prefills)
        return _encoded(question, _naming(question, way, [i for i in everything if i not in lacks]), lacks)
    if way.prefill is None and way.decode.letter == "D" and not lacking(question, way.decode):
        return _naming(question, way, everything)
    return replace(way, inline=tuple(everything))


def place_again(
    way: Route,
    pictures: Iterable[int],
    facts: RequestFacts,
    fleet: FleetState,
    policy: Policy,
    avoid: Collection[str],
) -> Route | Refusal:
    """Return the same route for a rank that turned out to lack `pictures`: those are encoded too, besides those that
    were."""
    wanted = {*pictures, *way.inline, *(i for share in way.encode for i in share.pictures)}
    question = Question(way.mode, facts, fleet, policy, avoid, None)
    named = tuple(picture for picture in way.named if picture.index not in wanted)
    return _encoded(question, replace(way, named=named), sorted(i for i in wanted if i < len(facts.pictures)))


def complete_without_encoding(question: Question, rank: Rank) -> bool:
    """True when a decode rank can prefill this request: it holds the pictures, or gets what it lacks from E."""
    pictures = question.facts.pictures
    if not pictures or Stage.ENCODE in question.fleet.stages(rank):
        return True
    if question.mode.encodes_apart and question.candidates("E"):
        return True
    return not lacking(question, rank)


def lacking(question: Question, rank: Rank) -> list[int]:
    """Return the pictures that `rank` does not hold: neither their embeddings nor the prefix that they lie in."""
    facts, fleet = question.facts, question.fleet
    held = fleet.pictures(rank.address)
    units = fleet.holding(facts, rank, question.known).units
    return [
        i
        for i, picture in enumerate(facts.pictures)
        if picture.key is None
        or fleet.picture_tokens.of(facts.model, picture.key) is None
        or (picture.key not in held and picture.end > units)
    ]


def _naming(question: Question, way: Route, pictures: Iterable[int]) -> Route:
    facts, known = question.facts, question.fleet.picture_tokens
    named = []
    for i in pictures:
        key = facts.pictures[i].key
        tokens = None if key is None else known.of(facts.model, key)
        assert key is not None and tokens is not None, "only what is known can be held"
        named.append(NamedPicture(i, key, tokens))
    return replace(way, named=tuple(named))


def _encoded(question: Question, way: Route, pictures: Sequence[int]) -> Route | Refusal:
    if not pictures:
        return way
    shares = split(question, pictures)
    if shares:
        return replace(way, encode=shares, inline=())
    if question.policy.encode_locally and Stage.ENCODE in question.fleet.stages(way.prefills):
        return replace(way, encode=(), inline=tuple(pictures), encode_fallback=True)
    return none_ready("encode worker (E)")


def split(question: Question, pictures: Sequence[int]) -> tuple[EncodeShare, ...]:
    """Return who encodes these pictures, nothing when no encode rank is ready.

    A picture that a rank holds goes there, and the same picture twice to one rank. Of the other n each of E ranks gets
    n // E, contiguous in the prompt's order, and the least loaded one more each until none is left.
    """
    ranks = question.candidates("E")
    if not ranks:
        return ()
    facts, fleet = question.facts, question.fleet
    mine: dict[str, list[int]] = {rank.address: [] for rank in ranks}

    def weight(rank: Rank) -> tuple[int, int, int]:
        load = fleet.load(rank)
        return load.work, len(mine[rank.address]), load.last_routed

    places: dict[str, str] = {}
    spread: list[int] = []
    for i in pictures:
        key = facts.pictures[i].key
        holders = [rank for rank in ranks if key is not None and key in fleet.pictures(rank.address)]
        if key is not None and holders:
            places.setdefault(key, min(holders, key=weight).address)
            mine[places[key]].append(i)
        elif key is None or all(facts.pictures[j].key != key for j in spread):
            spread.append(i)
    each, left = divmod(len(spread), len(ranks))
    extra = {rank.address for rank in sorted(ranks, key=weight)[:left]}
    begin = 0
    for rank in ranks:
        end = begin + each + (rank.address in extra)
        mine[rank.address] += spread[begin:end]
        begin = end
    # What was seen before in this request follows the first of its kind.
    given = {i for shares in mine.values() for i in shares}
    for i in pictures:
        if i not in given:
            key = facts.pictures[i].key
            first = next(a for a, held in mine.items() if any(facts.pictures[j].key == key for j in held))
            mine[first].append(i)
    return tuple(EncodeShare(rank, tuple(sorted(mine[rank.address]))) for rank in ranks if mine[rank.address])
