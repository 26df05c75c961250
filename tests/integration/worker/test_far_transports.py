"""Handing over by NIXL and by Mooncake between real workers, one of which is killed with a ticket out."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.worker.conftest import VIRTUAL
from tests.integration.worker.processes import TINY, launch, topology, wait_ready, wait_until
from tests.integration.worker.test_handoff import GREEDY, new_prompt, ticket_of
from tests.unit.transfer.transports import FAR, usable


@pytest.mark.parametrize("transport", FAR)
def test_a_prefill_engine_that_is_killed_and_comes_back(transport: str, log: Path) -> None:
    common = (*TINY, *VIRTUAL, "--topology-id", topology("far"), "--transport", usable(transport))
    prefill = launch(log, "--name", "far-prefill", *common, "--stages", "prefill")
    decode = launch(log.with_name("decode.log"), "--name", "far-decode", *common, "--stages", "decode")
    try:
        wait_ready(prefill)
        wait_ready(decode)

        def moved() -> tuple[list[int], str]:
            body = {"prompt": new_prompt(), "max_tokens": 5, "return_token_ids": True, **GREEDY}
            ticket = ticket_of(prefill, body)
            assert set(ticket["addresses"]) == {transport}
            answer = decode.call("/v1/completions", {**body, "kv_transfer_params": ticket})
            want = decode.call("/v1/completions", {**body, "cache_salt": "alone"}).choice["token_ids"]
            assert answer.choice["token_ids"] == want
            return want, answer.headers["x-tercet-external-tokens"]

        assert moved()[1] == "100"
        body = {"prompt": new_prompt(), "max_tokens": 5, "return_token_ids": True, **GREEDY}
        ticket = ticket_of(prefill, body)
        pid = int(prefill.engines()[0]["pid"])
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        answer = decode.call("/v1/completions", {**body, "kv_transfer_params": ticket})
        assert answer.headers["x-tercet-recomputed"] == "1" and time.monotonic() - begun < 20
        wait_until(lambda: prefill.is_ready() and int(prefill.engines()[0]["pid"]) != pid, 60, "P never came back")
        assert moved()[1] == "100"
        decode.wait_idle()
    finally:
        prefill.process.terminate()
        decode.process.terminate()
        prefill.stop()
        decode.stop()
