"""Modes: the rules that send requests through a topology.

Each is the sentence "choose D first, then ask whether P is needed, by the tokens D does not hold yet" with another
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.routing.affinity import affinity, mean_requests
from tercet.routing.encoding import complete_without_encoding, place_pictures
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.policy import Policy
from tercet.routing.question import Question, none_ready
from tercet.routing.refusal import Refusal


def route(
    mode: Mode, facts: RequestFacts, fleet: FleetState, policy: Policy, avoid: Collection[str] = ()
) -> Route | Refusal:
    """Return the route of a request under `mode`, or why there is none. `avoid` are addresses that failed this
    request before."""
    known_models = fleet.known_models
    if facts.model and known_models and facts.model not in known_models:
        return Refusal(
            404,
            f"model {facts.model[:80]!r} is not served here; there is {', '.join(map(repr, known_models))}",
            "model_not_found",
        )
    question = Question(mode, facts, fleet, policy, avoid, fleet.conversations.find(facts))
    found = MODES[mode](question)
    return place_pictures(question, found) if facts.pictures and isinstance(found, Route) else found


def aggregated(question: Question) -> Route | Refusal:
    """Each request on any A rank, no affinity."""
    ranks = question.candidates("A")
    return question.direct(question.choose(ranks)) if ranks else none_ready("worker with prefill and decode (A)")


def replicated(question: Question) -> Route | Refusal:
    """A conversation sticks to the A rank that holds its prefix; a new one is balanced."""
    ranks = question.candidates("A")
    if not ranks:
        return none_ready("worker with prefill and decode (A)")
    return question.direct(question.holder(ranks) or question.choose(ranks))


def pd(question: Question) -> Route | Refusal:
    """Every turn prefills on P and hands its KV to D. In a hybrid fleet A ranks answer some conversations whole."""
    return _beside_whole(question, _each_turn)


def ppd(question: Question) -> Route | Refusal:
    """Turn 1 as `pd`; later turns straight to the D that holds the prefix, unless the new input is long or the
    prefix is gone. In a hybrid fleet A ranks answer some conversations whole."""
    return _beside_whole(question, _first_turn)


def _each_turn(question: Question) -> Route | Refusal:
    ranks = question.candidates("D")
    if not ranks:
        return none_ready("decode worker (D)")
    return _through_p(question, ranks, None)


def _first_turn(question: Question) -> Route | Refusal:
    ranks = question.candidates("D")
    if not ranks:
        return none_ready("decode worker (D)")
    decode = question.holder(ranks)
    if decode is None and question.facts.later_turn:
        # Nobody remembers the conversation, but somebody's cache may hold it all the same.
        decode = prefix_holder(question, ranks)
    if decode is not None and question.policy.decode_alone:
        holding = question.fleet.holding(question.facts, decode, question.known)
        near = holding.held and holding.uncached < question.policy.ppd_threshold
        if near and complete_without_encoding(question, decode):
            return question.direct(decode)
    return _through_p(question, ranks, decode)


def epd(question: Question) -> Route | Refusal:
    """Pictures are encoded on E; then as `pd`, or on an A rank where there is no P and D."""
    return _apart(question, pd, lambda ranks: question.choose(ranks))


def eppd(question: Question) -> Route | Refusal:
    """Pictures are encoded on E; then as `ppd`, or as `replicated` where there is no P and D."""
    return _apart(question, ppd, lambda ranks: question.holder(ranks) or question.choose(ranks))


def _apart(
    question: Question, split: Callable[[Question], Route | Refusal], whole: Callable[[Sequence[Rank]], Rank]
) -> Route | Refusal:
    ranks = question.candidates("A")
    if not any(rank.letter == "D" for rank in question.fleet.ranks.values()):
        return question.direct(whole(ranks)) if ranks else none_ready("worker with prefill and decode (A)")
    found = split(question)
    return question.direct(whole(ranks)) if ranks and isinstance(found, Refusal) else found


def _beside_whole(question: Question, split: Callable[[Question], Route | Refusal]) -> Route | Refusal:
    """Return the route of `split`, or to an A rank where the fleet is hybrid and that has less to do first. What D
    holds stays there; what it takes whole because no ticket carries it might as well be A's, and what it can't is A's
    alone."""
    whole = question.candidates("A") if question.policy.hybrid else ()
    if not whole:
        return split(question)
    if holder := question.holder(whole):
        return question.direct(holder)
    found, fleet = split(question), question.fleet
    if isinstance(found, Route) and found.prefill is None and not found.fallback and question.ticketed:
        return found
    alone = question.direct(question.choose(whole))
    if isinstance(found, Refusal) or found.fallback or (found.prefill is not None and question.several):
        return alone
    ahead = fleet.load(found.decode).work
    ahead += found.uncached if found.prefill is None else fleet.load(found.prefill).work + found.prefill_uncached
    return alone if fleet.load(alone.decode).work + alone.uncached < ahead else found


def prefix_holder(question: Question, ranks: Sequence[Rank]) -> Rank | None:
    """Return the rank that holds most of the prompt, if any that is not crowded holds at least half of it."""
    holders = question.fleet.holders(question.facts, ranks[0].letter, None)
    mean = mean_requests(question.fleet, ranks)
    among = [ranks[place] for place in question.fleet.by_load(ranks).places(holders)]
    free = [rank for rank in among if affinity(question.fleet.load(rank).requests, mean) > 0.0]
    if not free:
        return None
    best = min(free, key=lambda rank: holders[rank.address].uncached)
    holding = holders[best.address]
    return best if holding.held > holding.uncached else None


def _through_p(question: Question, ranks: Sequence[Rank], preferred: Rank | None) -> Route | Refusal:
    if not question.ticketed and question.policy.decode_alone:
        # A ticket carries one prompt, and with some engines one answer: D takes several whole.
        return question.direct(preferred or question.choose(ranks))
    prefills = question.candidates("P")
    fleet, left = question.fleet, ranks
    while prefills and left:
        decode = preferred or question.choose(left)
        reachable = fleet.reachable(prefills, decode.address)
        if reachable:
            # P is chosen by its own cache: who holds the conversation is D's affair.
            return question.split(question.choose_anew(reachable), decode)
        left = [rank for rank in left if rank is not decode]
        preferred = None
    if question.policy.decode_fallback and question.policy.decode_alone:
        return question.direct(preferred or question.choose(ranks), fallback=True)
    return none_ready("prefill worker (P)" if not prefills else "pair of prefill and decode worker (P and D)")


MODES: dict[Mode, Callable[[Question], Route | Refusal]] = {
    Mode.AGGREGATED: aggregated,
    Mode.REPLICATED: replicated,
    Mode.PD: pd,
    Mode.PPD: ppd,
    Mode.EPD: epd,
    Mode.EPPD: eppd,
}
