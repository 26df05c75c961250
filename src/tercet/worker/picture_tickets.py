"""The pictures of sequences: under which ticket each can be read, here or elsewhere, and what is handed on."""

from __future__ import annotations

from dataclasses import replace

from tercet.core.errors import TicketError
from tercet.core.image import ImageInput
from tercet.core.image_ticket import ImageTicket
from tercet.engine.embedding_store import EmbeddingStore
from tercet.engine.sequence import ImageFetch, Sequence
from tercet.worker.issued_images import IssuedImages
from tercet.worker.remote_images import ImageFetched, RemoteImages


class PictureTickets:
    """Used by the engine loop alone. `issued` is None on an engine that hands no embeddings out."""

    def __init__(self, store: EmbeddingStore, remote: RemoteImages, issued: IssuedImages | None) -> None:
        self._store, self._remote, self._issued = store, remote, issued

    def take(self, sequence: Sequence, images: tuple[ImageInput, ...]) -> None:
        """Give a new sequence its pictures: a ticket of this engine becomes a lease of the sequence's own, another
        engine's is kept. Raises TicketError, before anything is taken, when one does not fit."""
        foreign = [image.ticket for image in images if image.ticket is not None and not self._is_own(image.ticket)]
        for ticket in foreign:
            self._check_fit(ticket)
        own = [image.ticket for image in images if image.ticket is not None and self._is_own(image.ticket)]
        for ticket in own:
            if self._issued is not None and self._issued.is_out(ticket):
                if ticket.key not in sequence.owned:
                    self._store.pool.lease(ticket.key)  # leased already, so that it always can be
                    sequence.owned |= {ticket.key}
                self._issued.take_share(ticket.id)
        sequence.sources |= {ticket.key for ticket in foreign} - sequence.owned
        self._remote.hold(sequence.id, foreign)

    def give_back(self, sequence: Sequence) -> None:
        """Undo `take` for a sequence that is refused."""
        for key in sequence.owned:
            self._store.pool.unlease(key)
        sequence.owned = frozenset()
        self._remote.let_go(sequence.id)

    def let_go(self, sequence_id: str) -> None:
        """Release what is kept elsewhere for a sequence that has ended or was handed on."""
        self._remote.let_go(sequence_id)

    def fetch(self, fetch: ImageFetch) -> None:
        """Start to read embeddings; the end is found in `fetched`."""
        self._remote.fetch(fetch)

    def fetched(self) -> list[ImageFetched]:
        """Return the reads that ended since the last call."""
        return self._remote.fetched()

    def hand_on(self, sequence: Sequence, images: tuple[ImageInput, ...], now: float) -> tuple[ImageInput, ...]:
        """Return a held sequence's pictures for its ticket: each with the ticket it came with, or a new one of ours.

        None where it is not here: then whoever has to recompute needs it encoded again.
        """
        return tuple(replace(image, ticket=self._onward(sequence, image, now)) for image in images)

    def _onward(self, sequence: Sequence, image: ImageInput, now: float) -> ImageTicket | None:
        ticket = image.ticket
        if ticket is not None and not self._is_own(ticket):
            return ticket
        if self._issued is None or image.span.key not in sequence.owned:
            return None
        if ticket is not None and self._issued.is_out(ticket):
            return ticket
        return self._issued.issue(image.span.key, 1, now)

    def _is_own(self, ticket: ImageTicket) -> bool:
        return self._issued is not None and ticket.engine_id == self._issued.engine_id

    def _check_fit(self, ticket: ImageTicket) -> None:
        wanted = self._store.layout.fingerprint
        if ticket.fingerprint != wanted:
            raise TicketError(
                f"the ticket's embeddings are of {ticket.fingerprint!r}, this engine's of {wanted!r}: "
                "run both with the same model and dtype"
            )
