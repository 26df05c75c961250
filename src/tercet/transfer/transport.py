"""What a transport is made of, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import zmq

from tercet.transfer.connection import Connections
from tercet.transfer.leases import LeaseTable
from tercet.transfer.pool import Segment
from tercet.transfer.protocol import BlockReader, BlockSource


@dataclass(frozen=True, slots=True)
class Export:
    """What a source is given. `segment` is None when the pool is not in shared memory."""

    pool: memoryview
    segment: Segment | None
    block_bytes: int
    leases: LeaseTable
    engine_id: str
    key: bytes
    host: str
    advertise_host: str | None
    context: zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True, slots=True)
class Import:
    """What a reader is given."""

    connections: Connections
    host: str


@dataclass(frozen=True, slots=True)
class Transport:
    """A name, and how to make its two sides. A source that can't work raises UsageError."""

    name: str
    source: Callable[[Export], BlockSource]
    reader: Callable[[Import], BlockReader]
