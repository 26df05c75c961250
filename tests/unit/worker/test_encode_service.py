"""The encode stage with a real pool, leases and handoff server, and an encoder that computes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from tercet.core.image_ticket import ImageTicket, blocks_for_rows
from tercet.engine.embedding_pool import EmbeddingPool
from tercet.engine.embedding_store import EmbeddingStore
from tercet.engine.encoder import EmbeddingLayout, Pixels
from tercet.engine.virtual_encoder import ROW_BYTES, VirtualEncoder, picture_rows
from tercet.transfer.leases import LeaseTable
from tercet.transfer.server import HandoffServer
from tercet.worker.busy import BusyTimes
from tercet.worker.encode_service import BUSY_BATCH, MAX_BATCH, EncodeService
from tercet.worker.issued_images import IssuedImages
from tercet.worker.wire import ImageAnswer, Refusal, unpack_image_answer

ROWS = 20
PIXELS: Pixels = np.zeros((3, 1, 1), np.float32)


class FreeOracle:
    def encode(self, images: int) -> float:
        """See EncodeOracle."""
        return 0.0


class Counting(VirtualEncoder):
    """Remembers its batches."""

    batches: list[list[str]]

    def encode(self, pictures: Any) -> list[memoryview]:
        """See Encoder."""
        self.batches.append([picture.key for picture in pictures])
        return super().encode(pictures)


class Stage:
    """An encode stage with room for `room` pictures."""

    def __init__(self, room: int, *, keep: bool = True, reserve: int = 0, lease_s: float = 30.0) -> None:
        layout = EmbeddingLayout(ROW_BYTES, "v")
        blocks = room * blocks_for_rows(ROWS)
        self.pool = EmbeddingPool(blocks, reserve=reserve, keep=keep)
        self.store = EmbeddingStore(layout, self.pool, memoryview(bytearray(blocks * layout.block_bytes)))
        self.leases = LeaseTable()
        self.server = HandoffServer(
            self.leases,
            self.store.memory,
            layout.block_bytes,
            engine_id="e",
            transports=("tcp",),
            secret=b"s" * 32,
            lease_s=lease_s,
            wake=lambda: None,
        )
        self.issued = IssuedImages("e", 0, self.store, self.server, self.leases, lease_s)
        self.encoder = Counting(FreeOracle(), layout, ROWS)
        self.encoder.batches = []
        self.now = 0.0
        self.sent: list[dict[str, Any]] = []
        self.service = EncodeService(
            self.encoder, self.store, self.issued, BusyTimes(), self.sent.append, lambda: self.now
        )
        self._ids = itertools.count()

    def ask(
        self, key: str, *, pixels: bool = True, readers: int = 1, sent: float = 0.0, group: str = "", pictures: int = 1
    ) -> str:
        name = str(next(self._ids))
        of = {"group": group or f"alone-{name}", "pictures": pictures}
        message = {"op": "image", "id": name, "key": key, "readers": readers, "sent": sent, "pixels": None, **of}
        if pixels:
            message |= {"pixels": PIXELS.tobytes(), "dtype": PIXELS.dtype.str, "shape": PIXELS.shape}
        self.service.take(message)
        return name

    def step(self, *, busy: bool = False) -> None:
        self.issued.settle(self.now)
        self.service.step(busy=busy)

    def answers(self) -> dict[str, ImageAnswer | Refusal | None]:
        """Return the answers since the last call."""
        found = {message["id"]: unpack_image_answer(message) for message in self.sent}
        self.sent.clear()
        return found

    def ticket(self, key: str) -> ImageTicket:
        name = self.ask(key)
        self.step()
        answer = self.answers()[name]
        assert isinstance(answer, ImageAnswer), answer
        self.service.end_group(f"alone-{name}")
        return answer.ticket


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    made: list[Stage] = []
    yield made
    for stage in made:
        stage.server.close()


def caches(answers: dict[str, ImageAnswer | Refusal | None]) -> list[str]:
    return [answer.cache if isinstance(answer, ImageAnswer) else "none" for answer in answers.values()]


def test_pictures_of_several_requests_are_encoded_together_and_each_once(stages: list[Stage]) -> None:
    stages.append(stage := Stage(40))
    for key in ("a", "b", "a", "c"):
        stage.ask(key, pixels=True)
    waits = stage.ask("b", pixels=False)
    stage.step()
    assert stage.encoder.batches == [["a", "b", "c"]]
    found = stage.answers()
    assert sorted(caches(found)) == ["joined", "joined", "miss", "miss", "miss"] and waits in found
    tickets = [answer.ticket for answer in found.values() if isinstance(answer, ImageAnswer)]
    assert len({ticket.id for ticket in tickets}) == 5 and len({ticket.block_ids for ticket in tickets}) == 3
    for ticket in tickets:
        entry = stage.pool.get(ticket.key)
        assert entry is not None and stage.store.read(entry) == picture_rows(ticket.key, ROWS).tobytes()
    assert (stage.pool.misses, stage.pool.joined, stage.pool.hits) == (3, 2, 0)
    stage.ask("c", pixels=False, sent=1.0)
    assert stage.ask("new", pixels=False, sent=1.0) in stage.answers()
    stage.step()
    assert caches(stage.answers()) == ["hit"] and len(stage.encoder.batches) == 1


def test_batches_are_bounded_and_smaller_beside_running_sequences(stages: list[Stage]) -> None:
    stages.append(stage := Stage(40))
    for number in range(MAX_BATCH + 3):
        stage.ask(str(number))
    stage.step()
    stage.step(busy=True)
    stage.step(busy=True)
    assert [len(batch) for batch in stage.encoder.batches] == [MAX_BATCH, BUSY_BATCH, 1]
    assert stage.service.waiting == 0


def test_a_request_that_was_read_late_joined(stages: list[Stage]) -> None:
    """It was sent while the engine was encoding that very picture, and could not listen."""
    stages.append(stage := Stage(4))
    stage.now = 10.0
    stage.ticket("a")
    stage.ask("a", pixels=False, sent=9.0)
    stage.ask("a", pixels=False, sent=11.0)
    stage.step()
    assert caches(stage.answers()) == ["joined", "hit"]


def test_a_full_pool_makes_pictures_wait_in_order(stages: list[Stage]) -> None:
    stages.append(stage := Stage(2))
    first, _ = stage.ticket("a"), stage.ticket("b")
    waiting = stage.ask("c")
    stage.ask("a")
    stage.step()
    assert stage.answers() == {} and stage.service.waiting == 2, "leased: nothing may go, nobody passes"
    stage.issued.release(first.id)
    stage.step()
    ((name, answer),) = stage.answers().items()
    assert name == waiting and isinstance(answer, ImageAnswer) and stage.pool.evictions == 1
    stage.now += 31.0
    stage.step()
    assert caches(stage.answers()) == ["miss"], "both leases ran out; a was encoded again"
    assert stage.issued.handoffs == {"accepted": 0, "released": 1, "expired": 2}


def test_requests_never_wait_for_each_others_pictures(stages: list[Stage]) -> None:
    stages.append(stage := Stage(4))
    for key in ("one-0", "other-0", "one-1", "other-1"):  # what they fetch comes in turn
        stage.ask(key, group=key.partition("-")[0], pictures=3)
    stage.step()
    answers = stage.answers()
    assert caches(answers) == ["miss", "miss", "miss"], "the last place is for the first request"
    alone = stage.ask("alone")
    stage.step()
    assert stage.answers() == {} and stage.service.waiting == 2
    last = stage.ask("one-2", group="one", pictures=3)
    stage.step()
    assert list(stage.answers()) == [last]
    stage.service.end_group("one")
    for answer in answers.values():
        assert isinstance(answer, ImageAnswer)
        if answer.ticket.key.startswith("one"):
            stage.issued.release(answer.ticket.id)
    stage.step()
    assert caches(stage.answers()) == ["miss"] and stage.service.waiting == 1, "the other is next, then who is alone"
    stage.service.end_group("other")
    stage.step()
    assert list(stage.answers()) == [alone]


def test_each_reader_ends_its_share(stages: list[Stage]) -> None:
    stages.append(stage := Stage(2))
    name = stage.ask("a", readers=2)
    stage.step()
    answer = stage.answers()[name]
    assert isinstance(answer, ImageAnswer)
    assert stage.leases.release(answer.ticket.id, True)
    stage.step()
    assert stage.issued.is_out(answer.ticket) and stage.pool.in_use
    assert stage.leases.release(answer.ticket.id, True)
    stage.step()
    assert not stage.issued.is_out(answer.ticket) and stage.pool.in_use == 0
    assert not stage.leases.release(answer.ticket.id, True)


def test_without_a_cache_an_entry_ends_with_its_last_lease(stages: list[Stage]) -> None:
    stages.append(stage := Stage(4, keep=False))
    one, two = stage.ticket("a"), stage.ticket("a")
    assert len(stage.encoder.batches) == 1, "the lease of the first keeps it"
    for ticket in (one, two):
        stage.issued.release(ticket.id)
    stage.step()
    assert stage.pool.occupied == 0
    stage.ticket("a")
    assert len(stage.encoder.batches) == 2


def test_who_left_is_not_encoded_for(stages: list[Stage]) -> None:
    stages.append(stage := Stage(4))
    gone = stage.ask("a")
    hoping = stage.ask("a", pixels=False)
    stage.service.cancel(gone)
    stage.step()
    assert stage.answers() == {hoping: None}, "the pixels left with the other: they are asked for"
    assert stage.encoder.batches == [] and stage.pool.occupied == 0


def test_a_picture_that_never_fits_is_refused(stages: list[Stage]) -> None:
    stages += [small := Stage(1, reserve=1), stage := Stage(3)]
    small.ask("a")
    stage.ask("a", group="many", pictures=4)
    for answer in (*small.answers().values(), *stage.answers().values()):
        assert isinstance(answer, Refusal) and (answer.status, answer.code) == (400, "too_large")
    assert isinstance(stage.ticket("a"), ImageTicket)


@pytest.mark.slow
def test_ten_thousand_pictures_take_no_more_memory_than_two_thousand(stages: list[Stage]) -> None:
    stages.append(stage := Stage(50))
    process, early = psutil.Process(), 0
    for number in range(10_000):
        stage.issued.release(stage.ticket(f"{number:064d}").id)
        stage.now += 0.05  # what renewals and releases leave behind goes with a lease's length
        stage.encoder.batches.clear()
        if number == 2_000:
            early = process.memory_info().rss
    assert process.memory_info().rss - early < 4 << 20
    assert stage.pool.evictions >= 9_900 and stage.pool.occupied == stage.pool.num_blocks
    stage.step()
    assert len(stage.issued) == len(stage.leases) == 0
