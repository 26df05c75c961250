"""What an engine's KV blocks are made of: P can hand them only to a D that makes the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """One engine as it describes itself.

    `fingerprint` names weights, dtype, block size and layout together; empty where the engine holds no KV or says
    nothing of them. `transports` are those it reads and offers, best first.
    """

    engine: str
    version: str
    model: str
    dtype: str
    block_size: int
    layout: str
    tensor_parallel: int
    ticket_version: int
    transports: tuple[str, ...]
    fingerprint: str

    def to_dict(self) -> dict[str, object]:
        """Return the JSON object that `from_dict` reads."""
        return {**asdict(self), "transports": list(self.transports)}

    @classmethod
    def from_dict(cls, data: object) -> EngineBuild | None:
        """Read it back; None when it is not all there, as from an older worker."""
        if not isinstance(data, dict):
            return None
        try:
            values: dict[str, Any] = {field.name: data[field.name] for field in fields(cls)}
            return cls(**{**values, "transports": tuple(map(str, values["transports"]))})
        except (KeyError, TypeError):
            return None


_COMPARED = {
    "engine": "engine",
    "model": "model",
    "dtype": "dtype",
    "block_size": "block size",
    "layout": "KV layout",
    "tensor_parallel": "tensor parallel size",
    "ticket_version": "version of the tickets",
}


def misfit(prefill: EngineBuild | None, decode: EngineBuild | None) -> str | None:
    """Return why D can't take over KV blocks from P, field by field; None when it can or one of them says nothing."""
    if prefill is None or decode is None:
        return None
    found = [
        f"{words} {getattr(prefill, name)} on P, {getattr(decode, name)} on D"
        for name, words in _COMPARED.items()
        if getattr(prefill, name) != getattr(decode, name)
    ]
    if not found and prefill.fingerprint and decode.fingerprint and prefill.fingerprint != decode.fingerprint:
        found.append("weights that are not the same, though the model is called the same")
    if not set(prefill.transports) & set(decode.transports):
        named = [" or ".join(end.transports) for end in (prefill, decode)]
        found.append(f"no transport that both have: {named[0]} on P, {named[1]} on D")
    if found and prefill.version != decode.version:
        found.append(f"tercet {prefill.version} on P, {decode.version} on D")
    return "KV can't be handed on: " + "; ".join(found) if found else None
