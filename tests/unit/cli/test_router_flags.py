from __future__ import annotations

from pathlib import Path

import pytest

from tercet.cli.main import build_app
from tercet.cli.router import from_files, spread
from tercet.core.errors import UsageError

A, B, C = "http://a:1", "http://b:2", "http://c:3"


@pytest.mark.parametrize(
    ("given", "spread_out"),
    [
        (["--worker", A], ["--worker", A]),
        (["--worker-urls", A, B, "--port", "1"], ["--worker-urls", A, "--worker-urls", B, "--port", "1"]),
        (["--prefill", A, B, "--decode", C], ["--prefill", A, "--prefill", B, "--decode", C]),
        (["--prefill", A, "--prefill", B], ["--prefill", A, "--prefill", B]),
        (["--pd-disaggregation", "--decode", A], ["--pd-disaggregation", "--decode", A]),
        (["--worker"], ["--worker"]),
        (["--worker=" + A, "--mode", "pd"], ["--worker=" + A, "--mode", "pd"]),
    ],
)
def test_a_flag_of_urls_takes_several(given: list[str], spread_out: list[str]) -> None:
    assert spread(given) == spread_out


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What `run` was given, instead of running a router."""
    import tercet.router.app

    seen: list[object] = []

    def run(config: object) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(tercet.router.app, "run", run)
    return seen


def call(*arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        build_app(["router"])(["router", *arguments])
    assert caught.value.code == 0


def test_flags_reach_the_configuration(configured: list[object]) -> None:
    from tercet.router.config import RouterConfig

    call("--mode", "ppd", "--prefill", A, "--decode", B, C + "#ranks=2", "--port", "9", "--ppd-threshold", "64")
    (config,) = configured
    assert isinstance(config, RouterConfig)
    assert (config.mode, config.prefill, config.decode) == ("ppd", (A,), (B, C + "#ranks=2"))
    assert (config.port, config.ppd_threshold, config.host) == (9, 64, "127.0.0.1")


def test_arguments_may_lie_in_a_file(configured: list[object], tmp_path: Path) -> None:
    from tercet.router.config import RouterConfig

    file = tmp_path / "arguments"
    file.write_text(f"# of a ConfigMap\n--prefill\n{A}\n\n--decode\n{B}\n{C}#ranks=2\n")
    call(f"@{file}", "--port", "9")
    (config,) = configured
    assert isinstance(config, RouterConfig)
    assert (config.prefill, config.decode, config.port) == ((A,), (B, C + "#ranks=2"), 9)


def test_a_file_of_arguments_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="cannot read the arguments in /nowhere"):
        from_files(["@/nowhere"])


def test_flags_of_the_vllm_router_mean_the_same(configured: list[object]) -> None:
    call("--worker-urls", A, B, "--policy", "cache_aware", "--intra-node-data-parallel-size", "2")
    call("--pd-disaggregation", "--prefill", A, "--decode", B, "--dialect", "vllm")
    first, second = configured
    assert (first.workers, first.balancer, first.data_parallel_size) == ((A, B), "prefix_aware", 2)  # type: ignore[attr-defined]
    assert (second.mode, second.dialect) == ("pd", "vllm")  # type: ignore[attr-defined]


def test_every_setting_has_its_flag() -> None:
    from dataclasses import fields
    from inspect import signature

    from tercet.cli.router import router
    from tercet.router.config import RouterConfig

    flags = set(signature(router).parameters)
    named = {"workers": "worker", "api_keys": "api_key_file", "worker_api_key": "worker_api_key_file"}
    for field in fields(RouterConfig):
        assert named.get(field.name, field.name.removesuffix("_s")) in flags, field.name


def test_logs_and_traces(configured: list[object]) -> None:
    from tercet.router.config import RouterConfig

    call("--worker", A, "--log-format", "json", "--log-requests", "--otlp-endpoint", "http://collector:4318")
    (config,) = configured
    assert isinstance(config, RouterConfig)
    assert (config.log_format, config.log_requests, config.otlp_endpoint) == ("json", True, "http://collector:4318")
