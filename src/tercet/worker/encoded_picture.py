"""Pictures on their way through the front: as a client names them, and as an engine has encoded them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tercet.worker.wire import ImageAnswer

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PictureSource:
    """A picture that a client named: the `index`-th of its request, at `where` in it."""

    index: int
    url: str
    where: str


@dataclass(frozen=True, slots=True)
class PictureGroup:
    """The pictures of one request, which can't go on without all of them: so many different ones at most, each for so
    many readers."""

    id: str
    pictures: int
    readers: int


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture's embeddings can be read. Times are in seconds; `decode_s` is 0 when the engine had it."""

    key: str
    answer: ImageAnswer
    fetch_s: float
    decode_s: float


class ImageEngine(Protocol):
    """The engine's side of pictures."""

    async def lookup_image(self, key: str, group: PictureGroup) -> ImageAnswer | None:
        """Return a ticket for a picture that is here or on its way; None asks for its pixels."""

    async def encode_image(self, key: str, pixels: Pixels, group: PictureGroup) -> ImageAnswer:
        """Encode a picture."""

    def end_group(self, group: PictureGroup) -> None:
        """Note that nothing more is asked for a group: it has its pictures, or was given up."""

    def release_image(self, ticket_id: str) -> None:
        """End a ticket's lease, for all of its readers."""


class PictureEncoder(Protocol):
    """What turns sources into tickets; see Pictures, which needs an extra that a worker of texts does without."""

    async def encode(
        self, engine: ImageEngine, sources: Sequence[PictureSource], readers: int
    ) -> tuple[EncodedPicture, ...]:
        """Return a ticket for each picture, in order. Raises RequestError."""
