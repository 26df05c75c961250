"""An encoder without tensors: it sleeps as long as a GPU would encode, and answers from a hash of the picture's key.

Its rows say whose they are: a virtual executor that reads another picture's rows, or none, ends with an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from hashlib import blake2b
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tercet.engine.encoder import EmbeddingLayout, Picture, Pixels

ROW_BYTES = 16


class EncodeOracle(Protocol):
    """What the encoder asks a latency oracle, in milliseconds; see `latency.oracle.LatencyOracle`."""

    def encode(self, images: int) -> float:
        """Pictures alone."""
        ...


def picture_rows(key: str, tokens: int) -> npt.NDArray[np.uint64]:
    """Return the rows of a picture: [tokens, 2] numbers, (hash of the picture, number of the row)."""
    number = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
    rows = np.empty((tokens, 2), np.uint64)
    rows[:, 0] = np.uint64(number)
    rows[:, 1] = np.arange(tokens, dtype=np.uint64)
    return rows


class VirtualEncoder:
    """The encode stage of a *virtual GPU*: every picture becomes `tokens_each` rows, after `oracle`'s time."""

    def __init__(
        self,
        oracle: EncodeOracle,
        layout: EmbeddingLayout,
        tokens_each: int,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if layout.row_bytes != ROW_BYTES:
            raise ValueError(f"a virtual row has {ROW_BYTES} bytes")
        self._oracle, self._layout, self._tokens_each, self._sleep = oracle, layout, tokens_each, sleep

    @property
    def layout(self) -> EmbeddingLayout:
        """See Encoder."""
        return self._layout

    def tokens(self, pixels: Pixels) -> int:
        """See Encoder."""
        return self._tokens_each

    def blank(self) -> Pixels:
        """See Encoder."""
        return np.zeros((3, 1, 1), np.float32)

    def encode(self, pictures: Seq[Picture]) -> list[memoryview]:
        """See Encoder."""
        self._sleep(self._oracle.encode(len(pictures)) / 1e3)
        return [picture_rows(picture.key, self._tokens_each).data for picture in pictures]

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""
