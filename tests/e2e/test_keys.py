from __future__ import annotations

from pathlib import Path

import pytest

from tercet.core.api_keys import ApiKey, digest_of, new_key
from tests.e2e.conftest import call, start_serve, stop_serve

pytestmark = pytest.mark.slow

VIRTUAL = ("--engine", "virtual", "--gpu", "h100", "--random-weights", "tiny", "--dtype", "fp32")


def test_with_keys_on_the_router_workers_answer_no_stranger_and_no_key_is_in_any_command_line(tmp_path: Path) -> None:
    user, admin, file = new_key(), new_key(), tmp_path / "keys"
    lines = [ApiKey("user", digest_of(user)).line(), ApiKey("ops", digest_of(admin), admin=True).line()]
    file.write_text("\n".join(lines) + "\n")
    serve = start_serve(tmp_path / "logs", "1P1D", *VIRTUAL, "--api-key-file", str(file))
    try:
        body = {"model": "tiny", "prompt": "a b c", "max_tokens": 4}
        mine = {"Authorization": f"Bearer {user}"}
        body["model"] = call(f"{serve.url}/v1/models", headers=mine).body["data"][0]["id"]
        assert call(f"{serve.url}/v1/completions", body, mine).status == 200  # by handoff: P and D share the secret
        assert call(f"{serve.url}/v1/completions", body).status == 401
        assert call(f"{serve.url}/status", headers=mine).status == 403
        status = call(f"{serve.url}/status", headers={"Authorization": f"Bearer {admin}"})
        urls = [worker["url"] for worker in status.body["workers"]]
        assert len(urls) == 2
        for url in urls:
            assert call(f"{url}/health").status == 200
            for path in ("/v1/completions", "/v1/encode", "/kv/release", "/ec/release", "/cache/reset"):
                for headers in ({}, mine, {"Authorization": f"Bearer {admin}"}):
                    assert call(f"{url}{path}", body, headers).status == 401, path
            assert call(f"{url}/v1/models").status == 401
        commands = _commands(serve.process.pid)
        assert len(commands) >= 3 and not any("tw-" in line or user in line for line in commands)
    finally:
        stop_serve(serve)


def _commands(pid: int) -> list[str]:
    import psutil

    return [" ".join(child.cmdline()) for child in psutil.Process(pid).children(recursive=True)]
