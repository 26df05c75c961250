"""Measured traffic against one server that is already running."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from secrets import token_hex

from tercet.bench.run import traffic_record
from tercet.compare import admin
from tercet.compare.measure import measure, stop_note
from tercet.compare.seams import Drive
from tercet.compare.spec import Block
from tercet.http.client import Client
from tercet.report.progress import Narrator
from tercet.results.document import ArchitectureRecord, Results
from tercet.results.environment import installed_versions, this_machine
from tercet.results.record import RunRecord
from tercet.results.summary import summarise
from tercet.traffic.conversation import TokenRange
from tercet.traffic.spec import TrafficSpec

SERVER = "server"
"""What results call a server that doesn't tell its mode."""


class Single:
    """Drives every rate in its turn against `url`. `run` may be cancelled: `results` then holds what was measured.

    `salt` sets its prompts apart from those the server saw before; empty draws one.
    """

    def __init__(
        self,
        url: str,
        traffic: TrafficSpec,
        rates: Sequence[float],
        *,
        scale: float,
        model: str,
        salt: str,
        drive: Drive,
        narrator: Narrator,
        command: Sequence[str],
    ) -> None:
        self.runs: list[RunRecord] = []
        self._url = url
        self._traffic = traffic
        self._rates = tuple(rates)
        self._scale = scale
        self._model = model
        self._salt = salt or token_hex(4)
        self._drive = drive
        self._narrator = narrator
        self._command = tuple(command)
        self._created_at = datetime.now(UTC)

    async def run(self) -> None:
        """Measure every rate. Raises TercetError when the server can't be reached or lists no model."""
        client = Client()
        try:
            card = await admin.served_model(client, self._url)
            mode = await admin.current_mode(client, self._url) or SERVER
        finally:
            await client.close()
        admin.require_room(card, self._traffic)
        self._model = self._model or card.id
        for i, qps in enumerate(self._rates):
            await measure(
                self._drive,
                self._narrator,
                Block(0, mode, qps, i, f"{self._salt}-q{i}"),
                replace(self._traffic, qps=qps),
                url=self._url,
                model=self._model,
                tokens=TokenRange.for_vocabulary(card.vocab_size),
                cache_salt=None,
                text=f"[{i + 1}/{len(self._rates)}] {mode}, {qps:g} requests/s",
                keep=self.runs.append,
                server_is_ours=False,
            )

    def results(self, *, stopped_by: str = "") -> Results:
        """Return the document of what was measured so far; `stopped_by` says what kept it from being all."""
        runs = tuple(self.runs)
        return Results(
            kind="bench",
            created_at=self._created_at.isoformat(timespec="seconds"),
            command=self._command,
            versions=installed_versions(),
            machine=this_machine(),
            model=self._model,
            seed=self._traffic.seed,
            traffics=(traffic_record(self._traffic, self._scale),),
            architectures=tuple(
                ArchitectureRecord(mode, mode, "", {}, 1, {}, {}, self._url)
                for mode in dict.fromkeys(run.mode for run in runs)
            ),
            runs=runs,
            summaries=summarise(runs, {}),
            verdicts=(),
            answers=None,
            notes=(
                f"Measured against {self._url}; its devices and its other load are not known here.",
                *stop_note(stopped_by),
            ),
            interrupted=bool(stopped_by),
        )
