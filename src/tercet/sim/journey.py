"""A request's way through the simulated fleet: the real router's steps, as events."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from tercet.core.errors import RequestError
from tercet.core.route import Route
from tercet.core.sampling import SamplingParams
from tercet.core.ticket import Ticket
from tercet.engine.sequence import Sequence
from tercet.routing import events as e
from tercet.routing.facts import RequestFacts
from tercet.sim.engine import TOKEN, Engine
from tercet.sim.request import SimRequest

if TYPE_CHECKING:
    from tercet.sim.router import SimRouter

MAX_RETRIES = 2
ROUNDING_TOKENS = 32
"""So much less than believed is no surprise: as the router sees it."""


class Journey:
    """Takes routes until one answers. `source_lives` while what P holds for it can be read."""

    __slots__ = (
        "_accepted", "_avoid", "_facts", "_name", "_placed", "_prefill", "_request", "_router", "_shares", "_step",
        "_waits", "_way", "source_lives",
    )  # fmt: skip

    def __init__(self, router: SimRouter, request: SimRequest) -> None:
        self._router, self._request = router, request
        self._facts: RequestFacts = request.content.facts(request.prompt_tokens, request.turn > 1, router.fleet)
        self._avoid: tuple[str, ...] = ()
        self._name = ""
        self._way: Route | None = None
        self._prefill: Sequence | None = None
        self._placed = self._accepted = False
        self._step = "new"
        self._waits = 0
        self._shares: dict[str, int] = {}
        self.source_lives = True

    def begin(self) -> None:
        """Take the first route."""
        self._try()

    def _try(self) -> None:
        router = self._router
        found = router.decide(router.spec.mode, self._facts, router.fleet, router.spec.policy, self._avoid)
        if not isinstance(found, Route):
            self._fail("http_5xx")
            return
        self._way = found
        self._name = name = str(next(router.names))
        self._accepted = self._placed = False
        self._shares, self._waits = {}, 0
        self.source_lives = True
        self._prefill = None
        router.live[name] = self
        router.fleet.apply(e.Routed(name, found, self._facts))
        counts, request = router.counts, self._request
        if found.prefill is None:
            counts.direct += 1
        else:
            counts.split += 1
        counts.named_pictures += len(found.named)
        request.route = str(found)
        request.prefilled_s = request.encoded_s = 0.0
        if found.prefill is None:
            self._go(name)
        else:
            self._step = "queue"
            router.places.enter(found.decode.address, partial(self._enter, name))

    def _enter(self, name: str) -> None:
        if name != self._name:  # it was given up while it waited
            assert self._way is not None
            self._router.places.leave(self._way.decode.address)
            return
        self._placed = True
        self._go(name)

    def _go(self, name: str) -> None:
        router = self._router
        assert self._way is not None
        self._step = "start"
        stack = router.stack
        idle = stack.idle_ms and not router.engines[self._way.prefills.address].busy
        delay_ms = stack.per_request_ms + (stack.idle_ms if idle else 0.0)
        if delay_ms:
            router.clock.after(delay_ms / 1e3, self._see, name)
        else:
            self._see(name)

    # --- pictures ---

    def _see(self, name: str) -> None:
        """Have the pictures fetched and encoded, then go on."""
        if name != self._name:
            return
        way, request = self._way, self._request
        assert way is not None
        request.begun_s = self._router.clock.now
        shares = [(share.rank, share.pictures) for share in way.encode]
        if way.inline:
            shares.append((way.prefills, way.inline))
        self._waits = sum(len(pictures) for _, pictures in shares)
        if not self._waits:
            self._compute(name)
            return
        self._step = "encode"
        for rank, pictures in shares:
            self._shares[rank.address] = len(pictures)
            engine = self._router.engines[rank.address]
            host = self._router.hosts[rank.url]
            for i in pictures:
                key = request.content.pictures[i]
                if key is not None and engine.encoding is not None and key in engine.encoding.cache:
                    self._encode(name, rank.address, i)
                else:
                    host.prepare(self._encode, name, rank.address, i)

    def _encode(self, name: str, address: str, picture: int) -> None:
        if name != self._name:
            return
        content = self._request.content
        engine = self._router.engines[address]
        engine.encode(content.pictures[picture], content.picture_tokens, partial(self._encoded, name, address, picture))

    def _encoded(self, name: str, address: str, picture: int) -> None:
        router, way = self._router, self._way
        if name != self._name or way is None:
            return
        left = self._shares[address] - 1
        self._shares[address] = left
        share = next((share for share in way.encode if share.rank.address == address), None)
        if share is not None and not left:
            router.fleet.apply(e.Encoded(name, address, self._keys(share.pictures)))
        hop_ms = router.stack.embedding_hop_ms if share is not None else 0.0
        if hop_ms:
            router.clock.after(hop_ms / 1e3, self._seen, name)
        else:
            self._seen(name)

    def _seen(self, name: str) -> None:
        if name != self._name:
            return
        self._waits -= 1
        if not self._waits:
            self._request.encoded_s = self._router.clock.now
            self._compute(name)

    def _keys(self, pictures: Collection[int]) -> tuple[tuple[str, int], ...]:
        content = self._request.content
        return tuple((key, content.picture_tokens) for i in pictures if (key := content.pictures[i]) is not None)

    # --- prefill and decode ---

    def _compute(self, name: str) -> None:
        way = self._way
        assert way is not None
        self._step = "prefill"
        engine = self._router.engines[way.prefills.address]
        self._add(engine, self._sequence(engine, name, hold=way.prefill is not None))

    def _sequence(self, engine: Engine, name: str, *, hold: bool = False, ticket: Ticket | None = None) -> Sequence:
        request = self._request
        length = request.prompt_tokens
        tokens = [0] * (length + (ticket is not None))
        sampling = SamplingParams(request.output_tokens, temperature=0.0, ignore_eos=True)
        sequence = Sequence(name, tokens, length, sampling, self._router.clock.now, b"", hold=hold, ticket=ticket)
        sequence.block_hashes = request.content.blocks(
            length + request.output_tokens, engine.scheduler.config.block_size
        )
        return sequence

    def _add(self, engine: Engine, sequence: Sequence) -> None:
        try:
            engine.add(sequence, self)
        except RequestError:
            self._fail("http_4xx")

    def held(self, sequence: Sequence) -> None:
        """P has the prompt: its KV goes to D."""
        router, way, request = self._router, self._way, self._request
        assert way is not None and way.prefill is not None
        request.prefilled_s = router.clock.now
        self._prefill = sequence
        self._step = "handoff"
        self._prefilled()
        engine = router.engines[way.decode.address]
        size = engine.scheduler.config.block_size
        ticket = Ticket(
            id=self._name, engine_id=way.prefill.address, rank=0, fingerprint="", block_size=size,
            token_ids=(0,) * request.prompt_tokens, block_ids=tuple(sequence.blocks), first=TOKEN, seed=0, control="",
            addresses={}, lease_s=0.0, expires_at=0.0,
        )  # fmt: skip
        self._add(engine, self._sequence(engine, self._name, ticket=ticket))

    def _prefilled(self) -> None:
        router, way = self._router, self._way
        assert way is not None
        if way.prefill is not None:
            router.fleet.apply(e.Prefilled(self._name, self._request.prompt_tokens))
        if self._facts.pictures:
            shown = [i for share in way.encode for i in share.pictures]
            keys = self._keys([*shown, *way.inline])
            router.fleet.apply(e.PicturesHeld(way.prefills.address, "", keys))

    def first(self, sequence: Sequence) -> None:
        """The first token reaches the client."""
        router, way, request = self._router, self._way, self._request
        assert way is not None
        now = router.clock.now
        request.first_s = now
        request.cached_tokens = sequence.cached_tokens
        request.external_tokens = sequence.external_tokens
        self._accept(way)
        if way.prefill is None:
            believed = way.held
            if sequence.cached_tokens < believed // 2 and believed - sequence.cached_tokens > ROUNDING_TOKENS:
                router.counts.mispredictions += 1
                router.fleet.apply(e.PrefixLost(self._facts, way.decode.address))
            self._prefilled()
        router.fleet.apply(e.FirstToken(self._name, request.prompt_tokens, sequence.cached_tokens))
        self._step = "decode"
        times = router.engines[way.decode.address].times
        if times is not None:
            times.begin(self._name)

    def _accept(self, way: Route) -> None:
        self._accepted = True
        if self._placed:
            self._placed = False
            self._router.places.leave(way.decode.address)
        if way.prefill is not None and self._prefill is not None:
            self._router.engines[way.prefill.address].release(self._name)
            self._prefill = None

    def ended(self, sequence: Sequence) -> None:
        """The last token reaches the client."""
        router, way, request = self._router, self._way, self._request
        assert way is not None
        if not self._accepted:  # an answer of one token
            if way.prefill is not None and sequence.hold:
                request.prefilled_s = router.clock.now
                self._prefilled()
            self.first(sequence)
        now = router.clock.now
        request.done_s = now
        times = router.engines[way.decode.address].times
        if times is not None:
            request.token_s = times.end(self._name, request.output_tokens - 1)
        elif request.output_tokens > 1:
            request.token_s = (now,)
        holder = way.prefills if sequence.hold else way.decode
        facts = self._facts
        router.fleet.apply(e.ConversationRecorded(facts, holder.address, request.prompt_tokens, request.output_tokens))
        self._over()

    # --- what goes wrong ---

    def lost(self, addresses: Collection[str]) -> None:
        """Some ranks died: try again elsewhere, unless it needed none of them or its answer has begun."""
        way = self._way
        assert way is not None
        if way.prefill is not None and way.prefill.address in addresses and self._step in ("handoff", "decode"):
            self.source_lives = False
            self._prefill = None
        needs = set() if self._step in ("decode", "handoff") else {way.prefills.address}
        needs |= {address for address, left in self._shares.items() if left}
        needs.add(way.decode.address)
        hurt = needs & set(addresses)
        if not hurt:
            return
        if self._accepted:
            self._fail("closed")
            return
        self._give_up(way)
        self._avoid = (*self._avoid, *hurt)
        self._request.retries += 1
        if self._request.retries > MAX_RETRIES:
            self._fail("http_5xx")
            return
        self._router.counts.retries += 1
        self._try()

    def _give_up(self, way: Route) -> None:
        """Leave a route: nothing is computed or held for it any more."""
        router, name = self._router, self._name
        self._name = ""
        router.live.pop(name, None)
        router.fleet.apply(e.Finished(name))
        if self._placed:
            self._placed = False
            router.places.leave(way.decode.address)
        for rank in {way.prefills.address, way.decode.address}:
            router.engines[rank].cancel(name)

    def _fail(self, kind: str) -> None:
        request, way = self._request, self._way
        request.failure = kind
        request.done_s = self._router.clock.now
        if self._name and way is not None:
            self._give_up(way)
        # Later, though at the same instant: in a closed loop the next one may fail, too, and so on.
        self._router.clock.after(0.0, request.on_end, request)

    def _over(self) -> None:
        router = self._router
        del router.live[self._name]
        router.fleet.apply(e.Finished(self._name))
        self._name = ""
        self._request.on_end(self._request)
