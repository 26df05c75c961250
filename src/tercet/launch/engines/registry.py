"""The engine that a topology names."""

from __future__ import annotations

from tercet.core.errors import UsageError
from tercet.launch.engines.builtin import BuiltinCommands
from tercet.launch.engines.protocol import EngineCommands
from tercet.launch.engines.sglang import SglangCommands
from tercet.launch.engines.trtllm import TrtllmCommands
from tercet.launch.engines.vllm import VllmCommands

ENGINES: dict[str, type[EngineCommands]] = {
    "tercet": BuiltinCommands,
    "virtual": BuiltinCommands,
    "vllm": VllmCommands,
    "sglang": SglangCommands,
    "trtllm": TrtllmCommands,
}
"""Commands by the `engine` of a topology; another engine is another file here, another line, and a name in the
schema."""


def engine_commands(name: str) -> EngineCommands:
    """Return what starts workers of the engine called `name`. Raises UsageError."""
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}: choose one of {', '.join(ENGINES)}")
    return ENGINES[name]()
