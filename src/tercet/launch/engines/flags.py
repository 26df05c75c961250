"""Settings as flags of a command line."""

from __future__ import annotations

from collections.abc import Mapping


def flags_of(settings: Mapping[str, object]) -> list[str]:
    """Return the flags that are set: True is a flag alone, None and False are none."""
    given: list[str] = []
    for flag, value in settings.items():
        if value is True:
            given.append(flag)
        elif value is not None and value is not False:
            given += [flag, str(value)]
    return given
