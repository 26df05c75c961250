"""The file that `tercet calibrate` writes: constants of a stack, a measured oracle perhaps, and how well they fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from tercet.core.errors import UsageError
from tercet.latency.measured import MeasuredOracle
from tercet.latency.oracle import ChosenOracle, OracleSource
from tercet.latency.stack import StackConstants

LINK_BYTES_S = 5e9
"""What moves KV between two workers of a measured machine, when nobody says: a copy through shared memory."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """`oracle` is there when the machine itself was measured; `fit` reports residuals, for people to read, what was
    `measured` and what stayed `unknown`: whoever predicts by it is told that it is extrapolated beyond."""

    stack: StackConstants
    oracle: MeasuredOracle | None = None
    fit: Mapping[str, Any] | None = None

    def chosen(self) -> ChosenOracle | None:
        """Return the measured oracle with its source, if there is one."""
        if self.oracle is None:
            return None
        said = [f"a link between workers moves {LINK_BYTES_S / 1e9:g} GB/s"]
        fit = self.fit if isinstance(self.fit, Mapping) else {}
        if measured := fit.get("measured"):
            said.append(f"what lies beyond the measured is extrapolated ({measured})")
        unknown = fit.get("unknown")
        said += [f"not known is {text}" for text in unknown] if isinstance(unknown, list) else []
        return ChosenOracle(
            self.oracle, OracleSource("measured", f"measured: {self.stack.source}", tuple(said)), LINK_BYTES_S
        )


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write as YAML or, when the name ends so, as JSON. Raises UsageError when the file can't be written."""
    data: dict[str, Any] = {"stack": asdict(calibration.stack)}
    if calibration.oracle is not None:
        data["oracle"] = asdict(calibration.oracle)
    if calibration.fit:
        data["fit"] = dict(calibration.fit)
    text = json.dumps(data, indent=2) + "\n" if path.suffix == ".json" else yaml.safe_dump(data, sort_keys=False)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error


def read_calibration(path: Path) -> Calibration:
    """Read what `tercet calibrate` wrote, or the constants alone. Raises UsageError."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} can't be read as stack constants: {error}") from error
    stack = data.get("stack", data) if isinstance(data, dict) else None
    if not isinstance(stack, dict):
        raise UsageError(f"{path} holds no stack constants: `tercet calibrate RESULTS --out {path}` writes them")
    _check(StackConstants, stack, path)
    if stack.get("scale") == 0:
        raise UsageError(f"{path}: scale is 0, which would make every step free")
    oracle = data.get("oracle")
    if oracle is None:
        return Calibration(StackConstants(**stack))
    if not isinstance(oracle, dict):
        raise UsageError(f"{path}: oracle is not a mapping of coefficients")
    _check(MeasuredOracle, oracle, path)
    missing = [each.name for each in fields(MeasuredOracle) if each.name not in oracle]
    if missing:
        raise UsageError(f"{path}: the oracle lacks {', '.join(missing)}")
    return Calibration(StackConstants(**stack), MeasuredOracle(**oracle), data.get("fit"))


def _check(kind: type[StackConstants] | type[MeasuredOracle], data: Mapping[str, Any], path: Path) -> None:
    known = {each.name: each for each in fields(kind)}
    for name, value in data.items():
        if name not in known:
            raise UsageError(f"{path}: {name!r} is not known here: known are {', '.join(known)}")
        if name == "source":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UsageError(f"{path}: {name} is {value!r}, a number not below zero is needed")
        if known[name].type == "int" and int(value) != value:
            raise UsageError(f"{path}: {name} is {value!r}, a whole number is needed")
