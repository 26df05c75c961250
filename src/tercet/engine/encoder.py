"""The encode stage's side of the engine: what turns pixels into embeddings. No tensors here."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from tercet.core.errors import TercetError
from tercet.core.image_ticket import BLOCK_ROWS

Pixels = npt.NDArray[Any]
"""A preprocessed picture, as `media.preprocess` makes it for the model."""


class EmbeddingError(TercetError):
    """A step would read embeddings that are not there, or not its picture's: a fault of scheduling or a transfer."""


@dataclass(frozen=True, slots=True)
class EmbeddingLayout:
    """How embeddings lie in memory: a token's row has `row_bytes` bytes, BLOCK_ROWS rows are a block.

    `fingerprint` names weights of tower and projector, preprocessing, dtype and layout: embeddings move only between
    equal fingerprints.
    """

    row_bytes: int
    fingerprint: str

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return BLOCK_ROWS * self.row_bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """What an encoder gets: `key` names the picture's source bytes, `pixels` is what preprocessing made of them."""

    key: str
    pixels: Pixels


class Encoder(Protocol):
    """Runs tower and projector. Implementations: VisionExecutor (tensors), VirtualEncoder (a latency function)."""

    @property
    def layout(self) -> EmbeddingLayout:
        """Return how embeddings lie in memory."""
        ...

    def tokens(self, pixels: Pixels) -> int:
        """Return how many rows a picture becomes. Raises RequestError when the model can't take such pixels."""
        ...

    def blank(self) -> Pixels:
        """Return pixels of the smallest picture: a worker is ready when it has encoded one."""
        ...

    def encode(self, pictures: Seq[Picture]) -> Seq[memoryview]:
        """Encode pictures together; return the rows of each, tokens(pixels) * row_bytes bytes."""
        ...

    def close(self) -> None:
        """Free every resource. The encoder is unusable after it."""
        ...
