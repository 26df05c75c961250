"""The front's way from a picture's source to a ticket, before an engine that only keeps books."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercet.core.errors import RequestError
from tercet.core.image import image_key
from tercet.core.image_ticket import ImageTicket, blocks_for_rows
from tercet.media.errors import PictureError
from tercet.media.limits import MediaLimits
from tercet.worker.encoded_picture import EncodedPicture, PictureGroup, PictureSource, Pixels
from tercet.worker.pictures import Pictures
from tercet.worker.wire import ImageAnswer
from tests.unit.media.files import claims, data_uri, picture
from tests.unit.media.site import Site, site

LIMITS = MediaLimits(allow_local=True, max_images=20, max_pixels=1_000_000, timeout_s=20.0)
TOKENS = 5


def pixels_of(image: Image.Image) -> Pixels:
    return np.asarray(image.resize((4, 4)), np.float32)


class Books:
    """An engine's books: what was encoded, which tickets are out. `gate` holds encoding up."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.pixels: list[Pixels] = []
        self.out: dict[str, tuple[str, int]] = {}
        self.groups: dict[str, int] = {}
        self.ended: list[str] = []
        self.waiting: dict[str, asyncio.Event] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self._names = iter(range(10**6))

    async def lookup_image(self, key: str, group: PictureGroup) -> ImageAnswer | None:
        joined = key in self.waiting
        if joined:
            await self.waiting[key].wait()
        return self._answer(key, group, "joined" if joined else "hit") if key in self.encoded else None

    async def encode_image(self, key: str, pixels: Pixels, group: PictureGroup) -> ImageAnswer:
        while key in self.waiting:
            await self.waiting[key].wait()
        if answer := await self.lookup_image(key, group):
            return answer
        done = self.waiting[key] = asyncio.Event()
        self.pixels.append(pixels)
        try:
            await self.gate.wait()
            self.encoded.append(key)
        finally:
            del self.waiting[key]
            done.set()
        return self._answer(key, group, "miss")

    def end_group(self, group: PictureGroup) -> None:
        self.ended.append(group.id)

    def release_image(self, ticket_id: str) -> None:
        self.out.pop(ticket_id, None)

    def _answer(self, key: str, group: PictureGroup, cache: str) -> ImageAnswer:
        name = f"t{next(self._names)}"
        self.out[name] = (key, group.readers)
        self.groups[group.id] = group.pictures
        blocks = tuple(range(blocks_for_rows(TOKENS)))
        return ImageAnswer(ImageTicket(name, key, "e", 0, "f", TOKENS, blocks, "c", {}, 1.0, 2.0), cache, 0.1, 0.2)


@pytest.fixture(scope="module")
def web() -> Iterator[Site]:
    with site(picture(seed=99)) as server:
        yield server


@pytest.fixture
async def pictures() -> AsyncIterator[Pictures]:
    made = Pictures(LIMITS, pixels_of)
    yield made
    made.close()


def sources(*urls: str) -> list[PictureSource]:
    return [PictureSource(i, url, f"images[{i}]") for i, url in enumerate(urls)]


async def encode(pictures: Pictures, engine: Books, *urls: str, readers: int = 1) -> tuple[EncodedPicture, ...]:
    return await pictures.encode(engine, sources(*urls), readers)


async def test_tickets_come_in_order_and_are_known_by_content(pictures: Pictures, web: Site, tmp_path: Path) -> None:
    engine, files = Books(), [picture(seed=i) for i in range(3)]
    (tmp_path / "p.png").write_bytes(files[1])
    got = await encode(
        pictures, engine, data_uri(files[0]), str(tmp_path / "p.png"), web.url("/ok"), data_uri(files[2]), readers=2
    )
    keys = [image_key(data) for data in (files[0], files[1], web.body, files[2])]
    assert [encoded.key for encoded in got] == keys
    assert [engine.out[encoded.answer.ticket.id] for encoded in got] == [(key, 2) for key in keys]
    assert {encoded.answer.cache for encoded in got} == {"miss"} and all(encoded.decode_s > 0 for encoded in got)
    assert list(engine.groups.values()) == [4] and engine.ended == list(engine.groups)
    again = await encode(pictures, engine, data_uri(files[1], "image/gif"))
    assert again[0].answer.cache == "hit" and again[0].decode_s == 0, "neither its name nor its type count"
    assert len(engine.encoded) == 4


async def test_the_same_picture_at_once_is_decoded_once() -> None:
    decoded: list[Image.Image] = []

    def preprocess(image: Image.Image) -> Pixels:
        decoded.append(image)
        return pixels_of(image)

    pictures, engine, uri = Pictures(LIMITS, preprocess), Books(), data_uri(picture((300, 300)))
    got: list[EncodedPicture] = []
    for _ in range(3):
        for log in (engine.encoded, engine.pixels, decoded):
            log.clear()
        tasks = [asyncio.create_task(encode(pictures, engine, uri, uri)) for _ in range(10)]
        got += [answer for task in tasks for answer in await task]
        assert len(engine.pixels) == len(decoded) == 1
    assert len({encoded.answer.ticket.id for encoded in got}) == 60
    pictures.close()


async def test_when_the_first_to_want_a_picture_leaves_the_others_get_it(pictures: Pictures) -> None:
    engine, uri = Books(), data_uri(picture((300, 300)))
    engine.gate.clear()
    tasks = [asyncio.create_task(encode(pictures, engine, uri, uri)) for _ in range(10)]
    async with asyncio.timeout(30):
        while not engine.pixels:
            await asyncio.sleep(0.005)
    tasks[0].cancel()
    engine.gate.set()
    with suppress(asyncio.CancelledError):
        await tasks[0]
    got = [answer for task in tasks[1:] for answer in await task]
    assert set(engine.out) == {encoded.answer.ticket.id for encoded in got} and len(engine.out) == 18


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (data_uri(picture()[:-20]), "broken or cut off"),
        (data_uri(claims(40_000, 40_000)), "pixels: at most 1000000"),
        (data_uri(b"only text", "image/png"), "not a picture"),
        ("SITE/missing.png", "HTTP 404"),
        ("http://no..host/a.png", "has no address"),
        ("ftp://a/b.png", "not a data URI"),
    ],
)
async def test_a_bad_picture_is_named_and_the_others_are_given_back(
    pictures: Pictures, web: Site, url: str, reason: str
) -> None:
    engine = Books()
    with pytest.raises(RequestError, match=f"^picture 2: .*{reason}") as caught:
        await encode(pictures, engine, data_uri(picture()), web.url("/ok"), url.replace("SITE", web.url("")))
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "bad_picture", "images[2]")
    assert not engine.out


async def test_a_refused_picture_is_let_go_at_once(pictures: Pictures) -> None:
    """Not when the garbage is collected: an error must not lead, by its traceback, back to itself."""
    engine, cut = Books(), data_uri(picture()[:-200])
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for url in (cut, cut, "data:image/png;base64,@@", "data:,", data_uri(claims(40_000, 40_000))):
            with suppress(RequestError):
                await encode(pictures, engine, url)
        gc.collect()
        kept = [item for item in gc.garbage if isinstance(item, RequestError | PictureError | PictureSource)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kept


async def test_too_many_pictures(pictures: Pictures) -> None:
    engine = Books()
    with pytest.raises(RequestError, match=r"^picture 20: .* 20 pictures, this one holds 100") as caught:
        await encode(pictures, engine, *[data_uri(picture())] * 100)
    assert (caught.value.status, caught.value.param) == (400, "images[20]")
    assert not engine.encoded


async def test_one_that_never_answers_holds_up_nobody_else(web: Site) -> None:
    hasty, engine = Pictures(MediaLimits(allow_local=True, timeout_s=2.5), pixels_of), Books()
    silent = [asyncio.create_task(encode(hasty, engine, web.url("/silent"))) for _ in range(8)]
    await encode(hasty, engine, web.url("/ok"))
    for task in silent:
        with pytest.raises(RequestError, match=r"picture 0: no whole answer within 2\.5 s"):
            await task
    hasty.close()


async def test_when_the_engine_refuses_everything_is_given_back(pictures: Pictures) -> None:
    class Refusing(Books):
        async def encode_image(self, key: str, pixels: Pixels, group: PictureGroup) -> ImageAnswer:
            if key == image_key(picture(seed=1)):
                raise RequestError(503, "the engine restarts")
            return await super().encode_image(key, pixels, group)

    engine = Refusing()
    with pytest.raises(RequestError, match="restarts") as caught:
        await encode(pictures, engine, *(data_uri(picture(seed=i)) for i in range(3)))
    assert caught.value.status == 503 and not engine.out and len(engine.ended) == 1


@pytest.mark.parametrize("cancels", [1, 2])
async def test_who_leaves_gives_back(pictures: Pictures, cancels: int) -> None:
    engine = Books()
    await encode(pictures, engine, data_uri(picture(seed=1)))
    engine.gate.clear()
    task = asyncio.create_task(encode(pictures, engine, data_uri(picture(seed=1)), data_uri(picture(seed=2))))
    async with asyncio.timeout(30):
        while len(engine.pixels) < 2 or len(engine.out) < 2:
            await asyncio.sleep(0.005)
    for _ in range(cancels):  # twice: a server that ends does not wait for it
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.ended == list(engine.groups), "no room is kept for it"
    assert len(engine.out) == 1 or cancels > 1, "that of the first request; others end with their leases"


async def test_blocking_loading_gives_the_same(web: Site) -> None:
    blocking, engine = Pictures(LIMITS, pixels_of, blocking=True), Books()
    (encoded,) = await encode(blocking, engine, web.url("/ok"))
    assert encoded.key == image_key(web.body)
    blocking.close()


@pytest.mark.parametrize(("bound", "most"), [("MAX_HELD_BYTES", 10_000), ("MAX_UNPACKED_BYTES", 400)])
async def test_files_and_pixels_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch, bound: str, most: int) -> None:
    """A picture of these tests has 192 bytes of pixels, whatever its file."""
    import tercet.worker.pictures as module

    monkeypatch.setattr(module, bound, most)
    pictures, engine = Pictures(LIMITS, pixels_of), Books()
    engine.gate.clear()
    files: list[Any] = [data_uri(picture(seed=i)) for i in range(4)]
    tasks = [asyncio.create_task(encode(pictures, engine, file)) for file in files]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION, timeout=30)
    assert done
    engine.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    busy = [result for result in results if isinstance(result, RequestError)]
    assert busy and all((error.status, error.code) == (503, "media_busy") for error in busy)
    for seed in range(10, 14):
        assert await encode(pictures, engine, data_uri(picture(seed=seed))), "room that was taken is free again"
    engine.gate.clear()
    for seed in range(20, 24):
        before = len(engine.pixels)
        leaving = asyncio.create_task(encode(pictures, engine, data_uri(picture(seed=seed))))
        while len(engine.pixels) == before and not leaving.done():
            await asyncio.sleep(0.001)
        assert not leaving.done(), "so is the room of those who left"
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
    pictures.close()
