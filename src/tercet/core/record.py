"""Frozen data classes that are cheap to make."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

__all__ = ["record"]

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from collections.abc import Callable
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
        """Make a data class that the type checker holds to be frozen, and that is not when it runs: a frozen one sets
        each of its fields by a call, and making one costs five to ten times as much. For what is made for each
        request.
        """
        return dataclass(slots=slots, unsafe_hash=frozen)
