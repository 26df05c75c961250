"""Any other transformers text model, run as it is: its own forward, our paged attention, our linears."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tercet.core.errors import UsageError
from tercet.engine.attention import NO_WINDOW, PagedAttention
from tercet.engine.backend import DeviceBackend
from tercet.engine.linear import LinearOp
from tercet.engine.step_plan import StepPlan

ATTENTION_NAME = "tercet_paged"


def paged_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    tercet_plan: StepPlan,
    tercet_attention: PagedAttention,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, for transformers: query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim]."""
    for name in ("softcap", "s_aux"):
        if others.get(name) is not None:
            raise UsageError(f"the model's attention uses {name!r}, which the built-in engine does not have")
    layer = int(getattr(module, "layer_idx"))  # noqa: B009 - transformers sets it on every attention module
    kv = torch.cat((key, value), dim=1)[0].transpose(0, 1)
    tercet_attention.write(tercet_plan, layer, kv)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q = query[0].transpose(0, 1)
    out = tercet_attention.read(tercet_plan, layer, q, scale, window=sliding_window or NO_WINDOW)
    return out.view(1, q.shape[0], q.shape[1], -1), None


class _LinearModule(nn.Module):
    """A LinearOp where the model expects a module."""

    def __init__(self, op: LinearOp) -> None:
        super().__init__()
        self._op = op

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._op(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], y.shape[-1])


class HFModel:
    """A transformers causal language model behind the executor's model interface."""

    def __init__(self, model: Any, backend: DeviceBackend) -> None:
        """Raise UsageError when the model does not hand attention over."""
        if not getattr(model, "_supports_attention_backend", False):
            raise UsageError(
                f"{type(model).__name__} does not take another attention implementation: "
                "load a Llama-like text model (llama, mistral, qwen2, qwen3, phi3, granite, olmo2, ...)"
            )
        # Linears first, from the weights as loaded: a backend may keep bf16 weights for fp32 arithmetic.
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear:
                bias = None if module.bias is None else module.bias.detach().to(backend.device)
                parent, _, attribute = name.rpartition(".")
                weight = module.weight.detach().to(backend.device)
                fast = _LinearModule(backend.linear(weight, bias, few_rows=name.endswith("lm_head")))
                setattr(model.get_submodule(parent), attribute, fast)
        self._model = model.to(backend.device, backend.compute_dtype)

    def logits(self, plan: StepPlan, attention: PagedAttention) -> torch.Tensor | None:
        """Compute one step. Returns [sampled rows, vocabulary], or None when nothing is sampled."""
        entry: dict[str, torch.Tensor] = {"input_ids": plan.ids[None]}
        if plan.overrides:
            embedded = self._model.get_input_embeddings()(plan.ids[None])
            for override in plan.overrides:
                embedded[0, override.first : override.first + len(override.rows)] = override.rows
            entry = {"inputs_embeds": embedded}
        answer = self._model(
            **entry,
            position_ids=plan.positions[None],
            use_cache=False,
            logits_to_keep=plan.sampled,
            tercet_plan=plan,
            tercet_attention=attention,
        )
        logits: torch.Tensor = answer.logits[0]
        return logits if plan.sampled_chunks else None
