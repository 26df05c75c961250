"""The live oracle: asks aiconfigurator-core, an extra, for any model, GPU and engine that it knows."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import yaml

from tercet.core.errors import UsageError
from tercet.latency.known_models import plain_name
from tercet.latency.parts import PartsOracle

SYSTEMS = {"a100": "a100_sxm", "h100": "h100_sxm", "h200": "h200_sxm"}
"""aiconfigurator's names of the GPUs that have one here; others go by aiconfigurator's own."""
CORE_NAMES = {
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3-vl-30b-a3b": "Qwen/Qwen3-VL-30B-A3B-Instruct",
}
_ATTENTION, _LOGITS = "attention", "logits_gemm"


def require_aiconfigurator() -> None:
    """Raise UsageError that names the extra when aiconfigurator-core is not installed."""
    if find_spec("aiconfigurator_core") is None:
        raise UsageError(
            "the live oracle needs aiconfigurator-core, which is not installed: pip install 'tercet[aiconfigurator]' "
            "(Linux on x86-64, Python 3.11 to 3.13)"
        )


def engine_version(system: str, engine: str) -> str:
    """Return the version of an engine that aiconfigurator measured on a system. Raises UsageError."""
    slots = yaml.safe_load((files("aiconfigurator_core") / "systems" / "query_versions.yaml").read_text("utf-8"))
    known = {**slots["defaults"], **slots["overrides"].get(system, {})}
    if engine not in known:
        raise UsageError(f"aiconfigurator-core knows no engine {engine!r}: choose one of {', '.join(sorted(known))}")
    return str(known[engine]["current"])


def live_oracle(model: str, gpu: str, engine: str, *, tp: int, memory_share: float) -> tuple[PartsOracle, str]:
    """Return an oracle and one line on where it comes from. `model` is a name that aiconfigurator knows, or a known
    model's, or a folder with config.json. Raises UsageError."""
    require_aiconfigurator()
    name = CORE_NAMES.get(plain_name(model), model)
    parts = LiveParts(name, gpu, engine, tp=tp)
    memory = live_memory(name, gpu, engine, tp=tp)
    tokens = 0 if memory is None else int((memory["total"] * memory_share - memory["other"]) // memory["kv_token"])
    if memory is None or tokens < 1:
        raise UsageError(f"{model} on {tp} x {gpu} leaves no room for KV: take more GPUs a replica")
    summary = f"live: aiconfigurator-core {version('aiconfigurator-core')}, {engine} {parts.version} on {gpu}, TP {tp}"
    return PartsOracle(parts, int(memory["kv_token"]) * tp, tokens), summary


class LiveParts:
    """StepParts of one model on one GPU, asked of aiconfigurator-core. Experts are split each, or among the GPUs."""

    def __init__(self, model: str, gpu: str, engine: str, *, tp: int = 1, moe_expert_parallel: bool = False) -> None:
        require_aiconfigurator()
        from aiconfigurator_core.sdk.engine import EngineHandle

        logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
        self.system = SYSTEMS.get(gpu.lower(), gpu)
        self.version = engine_version(self.system, engine)
        split = "moe_ep_size" if moe_expert_parallel else "moe_tp_size"
        try:
            handle = EngineHandle.compile(
                model, self.system, engine, backend_version=self.version, tp_size=tp, **{split: tp}
            )
            handle.predict_prefill_latency(1, 16, 0)
            handle.decode_step_latency(1, 16, 2)
        except Exception as error:
            raise UsageError(
                f"aiconfigurator-core can't predict {model} on {gpu} with {engine}, TP {tp}: {error}"
            ) from error
        self._handle = handle
        self._tokens = lru_cache(65536)(self._measure_tokens)
        self._logits = lru_cache(4096)(self._measure_logits)

    def tokens(self, count: int) -> float:
        """See StepParts."""
        return self._tokens(count)

    def logits(self, sequences: int) -> float:
        """See StepParts."""
        return self._logits(sequences)

    def prompt_attention(self, batch: int, tokens: float, prefix: float) -> float:
        """See StepParts."""
        return _named(self._prompt(batch, max(round(tokens), 1), round(prefix)), _ATTENTION)

    def decode_attention(self, batch: int, context: float) -> float:
        """See StepParts."""
        return _named(self._handle.decode_step_per_op(batch, max(round(context), 1), 2), _ATTENTION)

    def decode_attention_run(self, batch: int, context: float, steps: int) -> float:
        """See StepParts. Attention is taken as linear between the first and the last step."""
        return steps * self.decode_attention(batch, context + (steps - 1) / 2)

    def whole_prefill(self, batch: int, tokens: int, prefix: int) -> float:
        """Return aiconfigurator's own time of a prefill step."""
        return float(self._handle.predict_prefill_latency(batch, tokens + prefix, prefix))

    def whole_decode(self, batch: int, context: int) -> float:
        """Return aiconfigurator's own time of a decode step."""
        return float(self._handle.decode_step_latency(batch, context, 2))

    def _measure_tokens(self, count: int) -> float:
        operations = self._prompt(1, count, 0)
        total = sum(each[1] for each in operations)
        return float(total) - _named(operations, _ATTENTION) - _named(operations, _LOGITS)

    def _measure_logits(self, sequences: int) -> float:
        return _named(self._handle.decode_step_per_op(sequences, 16, 2), _LOGITS)

    def _prompt(self, batch: int, tokens: int, prefix: int) -> list[Any]:
        context, _ = self._handle.run_static_per_op(
            batch_size=batch, isl=tokens + prefix, osl=1, prefix=prefix, mode="static_ctx"
        )
        return list(context)


def _named(operations: list[Any], suffix: str) -> float:
    return float(sum(each[1] for each in operations if each[0].endswith(suffix)))


def live_memory(
    model: str, gpu: str, engine: str, *, tp: int = 1, max_tokens: int = 8192, moe_expert_parallel: bool = False
) -> dict[str, float] | None:
    """Return one GPU's memory in bytes: `total`, `other` than KV (weights, activations, runtime), `kv_token`.

    None when nothing is left for KV.
    """
    require_aiconfigurator()
    from aiconfigurator_core.sdk.memory import estimate_kv_cache

    system = SYSTEMS.get(gpu.lower(), gpu)
    split = "moe_ep_size" if moe_expert_parallel else "moe_tp_size"
    kind = "of_free" if engine == "trtllm" else "of_total"
    try:
        found = estimate_kv_cache(
            model,
            system,
            engine,
            engine_version(system, engine),
            max_num_tokens=max_tokens,
            max_batch_size=256,
            memory_fraction_kind=kind,
            memory_fraction_value=1.0,
            tp_size=tp,
            **{split: tp},
        )
    except ValueError:
        return None
    return {
        "total": float(found["total_gpu_capacity_bytes"]),
        "other": float(sum(found["memory_breakdown"].values())),
        "kv_token": float(found["kv_size_per_token_bytes"]),
    }
