"""Traffic as the simulator takes it: the very conversations that `tercet bench` would send, by their lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from tercet.core.errors import UsageError
from tercet.sim.client import SimConversation, SimTurn
from tercet.sim.content import Content
from tercet.traffic.conversation import TokenRange
from tercet.traffic.reading import Reading
from tercet.traffic.spec import Talk, TrafficSpec, iter_conversations


def talks_of(spec: TrafficSpec, salt: str) -> Iterator[Talk]:
    """Yield a run's conversations, as the load generator makes them from the same seed and salt."""
    return iter_conversations(spec, salt=salt, tokens=TokenRange())


def simulated(talks: Iterable[Talk], picture_tokens: int, first: int = 0) -> Iterator[SimConversation]:
    """Yield conversations by their lengths alone. `first` numbers them, apart from others of the same simulation.

    Real texts count a token for four characters. Raises UsageError for pictures when the model does not see.
    """
    for number, talk in enumerate(talks, first):
        yield _simulated(talk, number, picture_tokens)


def _simulated(talk: Talk, number: int, picture_tokens: int) -> SimConversation:
    if isinstance(talk, Reading):
        return _read(talk, number, picture_tokens)
    keys = tuple(blake2b(uri.encode(), digest_size=16).hexdigest() for uri in talk.pictures)
    _require_sight(len(keys), picture_tokens)
    turns = tuple(SimTurn(turn.new_input_tokens, turn.output_tokens, turn.think_s) for turn in talk.turns)
    content = Content(
        number,
        talk.id,
        shared=[(f"{talk.salt} {shared.name}", shared.tokens) for shared in talk.shared],
        pictures=keys,
        picture_tokens=picture_tokens,
        first_text=turns[0].new_tokens,
    )
    return SimConversation(content, turns, talk.arrival_s)


def _read(talk: Reading, number: int, picture_tokens: int) -> SimConversation:
    images = talk.images(0)
    _require_sight(images, picture_tokens)
    turns = []
    for script, turn in zip(talk.script.turns, talk.turns, strict=True):
        turns.append(SimTurn(script.new_tokens, turn.output_tokens, turn.think_s))
    content = Content(
        number,
        talk.id,
        pictures=[None] * images,
        picture_tokens=picture_tokens,
        first_text=turns[0].new_tokens,
    )
    return SimConversation(content, tuple(turns), talk.arrival_s)


def _require_sight(images: int, picture_tokens: int) -> None:
    if images and not picture_tokens:
        raise UsageError(
            "the traffic has pictures, and nothing is known of how this model sees: name a model that does"
        )
