"""What `--help` says of a default is what happens, and no setting leaves its default unsaid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest
from typer.main import get_command

from tercet.cli.main import build_app
from tercet.cli.planning import DEFAULT_MODEL
from tercet.core.topology import ON_GPU, USUAL, EngineSpec, RouterSpec
from tercet.router.config import RouterConfig
from tercet.worker.config import WorkerConfig

OTHERWISE: dict[str, set[str]] = {
    "router": {"kubernetes_api", "kubernetes_account"},
    "serve": set(),
    "worker": {"model", "rank_match"},
}
"""Options whose default is told in other words, or by the text."""


def told(command: str) -> dict[str, str | None]:
    """Return what the help of each option says of its default, None where it says nothing."""
    group: Any = get_command(build_app([command]))
    found: dict[str, str | None] = {}
    for option in group.commands[command].params:
        said = re.search(r"\[default: ([^\]]*)\]", option.help or "")
        found[option.name] = said[1] if said else None if option.default is None else str(option.default)
    return found


def differing(command: str, defaults: Mapping[str, Any]) -> dict[str, tuple[str | None, Any]]:
    """Return the options of which something else is told than their default."""
    said, wrong = told(command), {}
    for field, default in defaults.items():
        name = field.removesuffix("_s")
        if default is None or isinstance(default, bool | tuple | frozenset) or name in OTHERWISE[command]:
            continue
        text = f"{default:g}" if isinstance(default, float) else str(default)
        if name in said and said[name] not in (text, f"{default}"):
            wrong[name] = (said[name], default)
    return wrong


def defaults_of(*kinds: type) -> dict[str, Any]:
    return {field.name: field.default for kind in kinds for field in fields(kind)}


@pytest.mark.parametrize(
    ("command", "kinds"),
    [("router", (RouterConfig,)), ("serve", (EngineSpec, RouterSpec)), ("worker", (WorkerConfig,))],
)
def test_a_default_is_told_as_it_is(command: str, kinds: tuple[type, ...]) -> None:
    defaults = defaults_of(*kinds)
    if command == "router":
        # One text for two commands.
        assert "router: 1024]" in str(told(command)["max_concurrent"]) + "]" and defaults.pop("max_concurrent") == 1024
    assert differing(command, defaults) == {}


@pytest.mark.parametrize("command", ["serve", "compare"])
def test_how_much_engines_take_at_once_is_told(command: str) -> None:
    others = "vllm, sglang and trtllm on GPUs"
    assert told(command)["max_num_seqs"] == f"{USUAL.sequences}; {others}: {ON_GPU.sequences}"
    assert told(command)["max_num_batched_tokens"] == f"{USUAL.tokens}; {others}: {ON_GPU.tokens}"


def test_the_model_of_a_plan_is_told() -> None:
    assert f"plan: {DEFAULT_MODEL};" in str(told("plan")["model"])


def test_the_check_can_fail() -> None:
    assert set(differing("router", {"port": 1, "dialect": "vllm", "idle_timeout_s": 31.0})) == {
        "port",
        "dialect",
        "idle_timeout",
    }
