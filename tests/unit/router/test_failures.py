"""Workers fail in every way; clients get a clean answer, and nothing stays behind."""

from __future__ import annotations

import asyncio
import json

import pytest

from tercet.http.client import ClientError
from tercet.http.server import Request, Responder
from tests.unit.router.harness import routing, until


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("letters", "mode", "broken"), [("AA", "aggregated", 0), ("PPD", "pd", 0), ("PDD", "pd", 1)])
async def test_a_5xx_before_the_first_byte_is_tried_elsewhere(
    letters: str, mode: str, broken: int, stream: bool
) -> None:
    async with routing(letters, mode, balancer="round_robin") as setup:
        setup.workers[broken].status = 500
        for _ in range(4):
            got = await setup.complete("a b c", stream=stream, max_tokens=3)
            assert got.status == 200 and (got.streamed if stream else got.text) == "w3 w4 w5"
        assert 1 <= len(setup.workers[broken].inferences) <= 4
        assert await setup.metric("tercet:router_retries_total") == len(setup.workers[broken].inferences)
        await setup.idle()


@pytest.mark.parametrize(("letters", "mode"), [("A", "aggregated"), ("PD", "pd")])
async def test_a_5xx_with_nobody_else_reaches_the_client(letters: str, mode: str) -> None:
    async with routing(letters, mode) as setup:
        setup.workers[-1].status = 503
        got = await setup.complete("a b c")
        assert got.status == 503 and got.error["code"] == "engine_dead" and got.error["message"] == "broken"
        assert len(setup.workers[-1].inferences) == 1
        await setup.idle()


DEEP = b"[" * 100_000


async def test_an_answer_of_p_that_is_nested_too_deeply_is_no_fault_of_the_client() -> None:
    async with routing("PPD", "pd", balancer="round_robin") as setup:
        setup.workers[0].says["/v1/completions"] = b'{"a": ' + DEEP
        for _ in range(2):
            got = await setup.complete("a b c", max_tokens=3)
            assert got.status == 200 and got.text == "w3 w4 w5"
        assert await setup.metric("tercet:router_retries_total") >= 1
        await setup.idle()


@pytest.mark.parametrize("status", [400, 500])
async def test_an_error_that_is_nested_too_deeply_is_told_with_its_status(status: int) -> None:
    async with routing("A") as setup:
        setup.workers[0].says["/v1/completions"], setup.workers[0].status = DEEP, status
        got = await setup.complete("a b c")
        assert got.status == status and b"request body" not in got.body


async def test_retries_are_bounded() -> None:
    async with routing("AAAAA", max_retries=2) as setup:
        for worker in setup.workers:
            worker.status = 500
        assert (await setup.complete("a")).status == 500
        assert sum(len(worker.inferences) for worker in setup.workers) == 3
        assert await setup.metric("tercet:router_retries_total") == 2
        assert await setup.metric("tercet:router_time_to_first_byte_seconds_count") == 0


@pytest.mark.parametrize("role", ["P", "D"])
async def test_a_dead_worker_gives_a_clean_error_at_once(role: str) -> None:
    async with routing("PD", "pd") as setup:
        worker = setup.role(role)[0]
        worker.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c", stream=True))
        await until(lambda: worker.inferences)
        await worker.stop()
        got = await asyncio.wait_for(request, 20)  # and not 60, its deadline
        assert got.status == 502 and got.error["code"] == "worker_unreachable" and f"{role}0" in got.error["message"]
        # And who comes next is told so at once.
        await until(lambda: not setup.router.parts.fleet.ready(worker.url))
        got = await setup.complete("a b c")
        assert got.status == 503 and got.error["code"] == "no_worker_ready" and got.headers["retry-after"] == "1"
        await until(lambda: setup.router.parts.fleet.in_flight == 0)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/echo"])
async def test_a_client_does_not_hear_where_a_dead_worker_was(path: str) -> None:
    async with routing("A", "aggregated", health_interval_s=60.0, max_retries=0) as setup:
        (worker,) = setup.workers
        port = str(worker.server.port)
        await worker.stop()
        got = await setup.post(path, {"model": "m", "prompt": "a"})
        assert (got.status, got.error["code"]) == (502, "worker_unreachable")
        assert "A0 failed" in got.error["message"] and port not in got.error["message"]


async def test_a_dead_p_is_replaced_by_the_other() -> None:
    async with routing("PPD", "pd", balancer="round_robin") as setup:
        await setup.workers[0].stop()
        for _ in range(4):
            assert (await setup.complete("a b c")).status == 200
        await setup.idle()


async def test_a_worker_that_hangs_fails_its_requests_long_before_their_deadline() -> None:
    async with routing("PD", "pd") as setup:
        (worker,) = setup.role("P")
        worker.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c"))
        await until(lambda: worker.inferences)

        async def silence(*_: object) -> None:
            await asyncio.sleep(60)

        worker.server.handler = silence  # alive for TCP, dead for everybody else
        got = await asyncio.wait_for(request, 20)
        assert got.status == 502


@pytest.mark.parametrize(("fallback", "status"), [("error", 503), ("decode", 200)])
async def test_prefill_fallback(fallback: str, status: int) -> None:
    async with routing("PD", "pd", prefill_fallback=fallback) as setup:
        (worker,) = setup.role("P")
        worker.status = 503
        got = await setup.complete("a b c", max_tokens=3)
        assert got.status == status
        await worker.stop()
        await until(lambda: not setup.router.parts.fleet.ready(worker.url))
        got = await setup.complete("a b c", max_tokens=3)
        assert got.status == status
        if fallback == "decode":
            assert got.route == "D0" and got.text == "w3 w4 w5"
            assert await setup.metric("tercet:router_routes_total", kind="fallback") == 2


async def test_finish_reason_error_is_a_failure() -> None:
    async with routing("PD", "pd") as setup:
        for worker in setup.workers:
            worker.finish = "error"
            got = await setup.complete("a b c")
            assert got.status == 502 and got.error["code"] == "engine_error"
            worker.finish = ""
        await setup.idle()
    async with routing("AA") as setup:
        setup.workers[0].finish = "error"
        assert (await setup.complete("a b c")).status == 200, "before the first byte another may do better"


async def test_a_stream_that_ends_in_an_error_is_counted() -> None:
    async with routing("A") as setup:
        setup.workers[0].finish = "error"
        got = await setup.complete("a b c", stream=True)
        assert got.status == 200 and '"finish_reason":"error"' in got.events[-2]
        assert await setup.metric("tercet:router_stream_failures_total") == 1
        assert await setup.metric("tercet:router_requests_total", status="502") == 1
        again = await setup.chat("a", "b", "c")
        assert again.status == 502


async def test_a_stream_that_breaks_says_so_and_is_never_replayed() -> None:
    async with routing("PDD", "pd") as setup:
        for worker in setup.role("D"):
            worker.cut_after = 3
        got = await setup.complete("a b c", stream=True, max_tokens=9)
        assert got.status == 200 and len(got.events) == 4 and got.events[-1] != "[DONE]"
        assert json.loads(got.events[-1])["error"]["code"] == "worker_unreachable"
        assert sum(len(worker.inferences) for worker in setup.role("D")) == 1
        assert await setup.metric("tercet:router_stream_failures_total", mode="pd") == 1
        await setup.idle()


async def test_an_answer_that_breaks_before_the_client_saw_of_it_is_asked_for_elsewhere() -> None:
    async with routing("AA", "aggregated", balancer="round_robin") as setup:
        handler = setup.workers[0].server.handler

        async def half(request: Request, responder: Responder) -> None:
            if request.path != "/v1/completions":
                await handler(request, responder)
                return
            responder.start(200, content_length=100)
            responder.write(b'{"id": ')
            await responder.drain()
            responder.abort()

        setup.workers[0].server.handler = half
        for _ in range(4):
            got = await setup.complete("a b c", max_tokens=3)
            assert got.status == 200 and got.text == "w3 w4 w5"
        assert await setup.metric("tercet:router_retries_total") >= 1
        await setup.idle()


async def test_silence_within_a_stream_has_a_deadline() -> None:
    async with routing("A", idle_timeout_s=0.3) as setup:
        setup.workers[0].gate, setup.workers[0].gate_after = asyncio.Event(), 2
        got = await asyncio.wait_for(setup.complete("a b c", stream=True, max_tokens=9), 20)
        assert json.loads(got.events[-1])["error"]["code"] == "worker_timeout"
        await setup.idle()


async def test_no_first_byte_has_a_deadline_and_is_not_retried() -> None:
    async with routing("PPD", "pd", first_byte_timeout_s=0.3) as setup:
        for worker in setup.role("P"):
            worker.gate = asyncio.Event()
        got = await asyncio.wait_for(setup.complete("a b c"), 20)
        assert got.status == 504 and got.error["type"] == "timeout_error"
        assert sum(len(worker.inferences) for worker in setup.workers) == 1
        await setup.idle()


async def test_silence_is_called_the_same_on_a_path_that_is_passed_on() -> None:
    async with routing("A", answer_timeout_s=0.3) as setup:
        (worker,) = setup.workers
        handle = worker.server.handler

        async def silent(request: Request, responder: Responder) -> None:
            if request.path == "/v1/embeddings":
                await asyncio.Event().wait()  # until the router leaves
            await handle(request, responder)

        worker.server.handler = silent
        got = await asyncio.wait_for(setup.post("/v1/embeddings", {"model": "m", "input": "a"}), 20)
        assert (got.status, got.error["code"], got.error["type"]) == (504, "worker_timeout", "timeout_error")


async def test_a_ticket_that_does_not_fit_is_a_502_and_the_pair_is_probed_again() -> None:
    async with routing("PD", "pd") as setup:
        (worker,) = setup.role("D")
        worker.misfit = True
        got = await setup.complete("a b c")
        assert got.status == 502 and got.error["code"] == "ticket_mismatch" and "dtype" in got.error["message"]
        assert (await setup.complete("a b c")).status == 503
        assert (await setup.get("/ready")).status == 503
        worker.misfit = False
        await until(lambda: setup.router.parts.fleet.paired(setup.workers[0].url, worker.url))
        assert (await setup.complete("a b c")).status == 200
        await setup.idle()


# --- clients that leave ---


@pytest.mark.parametrize("role", ["P", "D"])
@pytest.mark.parametrize("stream", [False, True])
async def test_when_the_client_leaves_every_leg_is_cancelled_and_blocks_are_released(role: str, stream: bool) -> None:
    async with routing("PD", "pd") as setup:
        worker = setup.role(role)[0]
        worker.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c", stream=stream))
        await until(lambda: worker.inferences)
        request.cancel()
        await until(lambda: worker.cancelled == 1)
        await setup.idle()
        assert setup.tickets.ended == ({"released": 1} if role == "D" else {})
        assert await setup.metric("tercet:router_requests_total", status="499") == 1
        worker.gate = None
        assert (await setup.complete("a b c")).status == 200


async def test_a_ticket_that_comes_when_the_client_has_left_is_released() -> None:
    async with routing("PD", "pd") as setup:
        (worker,) = setup.role("P")
        worker.gate = asyncio.Event()
        handler = worker.server.handler

        async def stubborn(*args: object) -> None:
            # Its answer is already on its way when the router turns to it: cancelling changes nothing.
            await asyncio.shield(asyncio.ensure_future(handler(*args)))  # type: ignore[arg-type]

        worker.server.handler = stubborn
        request = asyncio.create_task(setup.complete("a b c"))
        await until(lambda: worker.inferences)
        request.cancel()
        worker.gate.set()
        await setup.idle()


async def test_when_the_client_leaves_a_stream_the_worker_stops() -> None:
    async with routing("PD", "pd") as setup:
        (worker,) = setup.role("D")
        worker.gate, worker.gate_after = asyncio.Event(), 2
        response = await setup.client.request(
            "POST",
            setup.url + "/v1/completions",
            body=b'{"prompt": "a b", "stream": true, "max_tokens": 9}',
        )
        async for _ in response.chunks():
            break
        response.close()
        await until(lambda: worker.cancelled == 1)
        await setup.idle()
        assert setup.tickets.ended == {"accepted": 1}


async def test_a_storm_of_clients_that_leave_holds_nothing_back() -> None:
    async with routing("PPDD", "pd") as setup:
        for worker in setup.workers:
            worker.token_s = 0.002

        async def one(i: int) -> None:
            stream = bool(i % 2)
            try:
                async with asyncio.timeout(0.001 * (i % 30) if i % 3 == 0 else None):
                    got = await setup.complete(f"a {i}", stream=stream, max_tokens=3)
                assert got.status == 200
            except TimeoutError:
                pass

        for start in range(0, 300, 50):
            await asyncio.gather(*(one(i) for i in range(start, start + 50)))
        await setup.idle()
        assert set(setup.tickets.ended) <= {"accepted", "released"}


# --- handoffs ---


async def test_unaccepted_handoffs_are_bounded_per_decode_worker() -> None:
    async with routing("PD", "pd", max_unaccepted_handoffs=3) as setup:
        prefill, decode = setup.workers
        decode.gate = asyncio.Event()
        requests = [asyncio.create_task(setup.complete(f"a b {i}")) for i in range(8)]
        await until(lambda: len(decode.inferences) == 3)
        await asyncio.sleep(0.1)
        assert len(prefill.inferences) == 3, "P does not work ahead of D"
        (rank,) = [r for w in (await setup.status())["workers"] for r in w["ranks"] if r["name"] == "D0"]
        assert rank["unaccepted_handoffs"] == 3
        decode.gate.set()
        assert [got.status for got in await asyncio.gather(*requests)] == [200] * 8
        await setup.idle()


async def test_waiting_for_a_place_has_a_deadline() -> None:
    async with routing("PD", "pd", max_unaccepted_handoffs=1, first_byte_timeout_s=0.3) as setup:
        decode = setup.role("D")[0]
        decode.gate = asyncio.Event()
        first = asyncio.create_task(setup.complete("a b"))
        await until(lambda: decode.inferences)
        got = await setup.complete("c d")
        assert got.status == 503 and got.error["code"] == "overloaded"
        decode.gate.set()
        assert (await first).status == 200
        await setup.idle()


async def test_in_flight_requests_keep_their_route_when_the_mode_changes() -> None:
    async with routing("PDA", "pd") as setup:
        decode = setup.role("D")[0]
        decode.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c"))
        await until(lambda: decode.inferences)
        assert (await setup.post("/mode/aggregated")).json == {"mode": "aggregated", "before": "pd"}
        assert (await setup.complete("a b c")).route == "A0"
        decode.gate.set()
        assert (await request).route == "P0>D0"
        counts = (await setup.status())["counts"]
        assert counts["pd"]["routes"] == {"P0>D0": 1} and counts["aggregated"]["routes"] == {"A0": 1}
        assert (counts["pd"]["ok"], counts["aggregated"]["ok"]) == (1, 1)


async def test_graceful_shutdown_lets_answers_end_and_refuses_new_ones() -> None:
    async with routing("PD", "pd") as setup:
        decode = setup.role("D")[0]
        decode.gate, decode.gate_after = asyncio.Event(), 1
        request = asyncio.create_task(setup.complete("a b c", stream=True, max_tokens=3))
        await until(lambda: decode.inferences)
        closing = asyncio.create_task(setup.router.close(30))
        await asyncio.sleep(0.05)
        with pytest.raises(ClientError):
            await setup.get("/health")
        decode.gate.set()
        assert (await request).streamed == "w3 w4 w5"
        await asyncio.wait_for(closing, 30)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_d_did_not_take_over_is_released(stream: bool) -> None:
    async with routing("PD", "pd") as setup:
        setup.role("D")[0].recomputes = True
        got = await setup.complete("a b c", stream=stream, max_tokens=3)
        assert got.status == 200 and (got.streamed if stream else got.text) == "w3 w4 w5"
        await setup.idle()
        assert setup.tickets.ended == {"released": 1}
        assert await setup.metric("tercet:router_releases_total") >= 1


@pytest.mark.parametrize("how", ["refuses", "dies", "misfit"])
async def test_when_d_does_not_accept_p_lets_go(how: str) -> None:
    async with routing("PD", "pd") as setup:
        decode = setup.role("D")[0]
        if how == "refuses":
            decode.status = 400
        elif how == "misfit":
            decode.misfit = True
        else:
            decode.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c"))
        if how == "dies":
            await until(lambda: decode.inferences)
            await decode.stop()
        assert (await request).status == {"refuses": 400, "dies": 502, "misfit": 502}[how]
        await until(lambda: not setup.tickets.held)
        assert setup.tickets.ended["released"] >= 1
        assert await setup.metric("tercet:router_handoff_leaks_total") == 0
        assert await setup.metric("tercet:router_handoff_expiries_total") == 0


async def test_a_shutdown_releases_what_it_cuts_off() -> None:
    async with routing("PD", "pd") as setup:
        decode = setup.role("D")[0]
        decode.gate = asyncio.Event()
        request = asyncio.create_task(setup.complete("a b c"))
        await until(lambda: decode.inferences)
        await asyncio.wait_for(setup.router.close(0.1), 20)
        with pytest.raises(ClientError):
            await request
        await until(lambda: not setup.tickets.held)
        assert setup.tickets.ended == {"released": 1}
