"""Least squares that stay above zero and forgive outliers: what a few noisy timings can bear."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tercet.core.errors import UsageError

Array = npt.NDArray[np.float64]
ROUNDS = 12
"""Of reweighting: an outlier counts by its distance, not by the square of it (Huber)."""
DOUBT = 3.0
"""Times the median residual: by so much a doubted value must improve the fit to be believed."""
LEAST_DOUBT = 1e-3
FORGIVEN = 1.5
"""Times the median residual: from where on a row is an outlier."""


@dataclass(frozen=True, slots=True)
class Fit:
    """`values` by name, and each row's relative error (predicted / observed - 1)."""

    values: dict[str, float]
    errors: tuple[float, ...]


def fit_positive(
    names: Sequence[str],
    rows: Sequence[Sequence[float]],
    observed: Sequence[float],
    doubted: Collection[str] = (),
) -> Fit:
    """Return the values, none below zero, whose sums of value x feature come nearest to `observed` (all above zero).

    `rows` is [observations, names]. Errors are relative. A name whose features are all zero gets 0; where the rows
    can't tell names apart, those `doubted` get next to nothing. Raises UsageError when there are fewer rows than names
    that matter.
    """
    features, target = np.array(rows, float).reshape(-1, len(names)), np.array(observed, float)
    used = [i for i in range(len(names)) if len(features) and np.any(features[:, i])]
    if len(target) < max(len(used), 1):
        raise UsageError(f"{len(target)} timings can't tell {len(used)} constants apart: measure more, or longer")
    scaled = features[:, used] / target[:, None]
    sizes = np.linalg.norm(scaled, axis=0) * [names[i] in doubted for i in used]
    values, nothing = np.zeros(len(names)), np.zeros(len(used))
    weights, doubt = np.ones(len(target)), LEAST_DOUBT
    for _ in range(ROUNDS):
        weighted = np.vstack([scaled * weights[:, None], np.diag(doubt * sizes)])
        values[:] = 0.0
        values[used] = _non_negative(weighted, np.concatenate([weights, nothing]))
        off = np.abs(features @ values / target - 1)
        usual = float(np.median(off))
        doubt = max(DOUBT * usual, LEAST_DOUBT)
        weights = np.sqrt(np.minimum(max(FORGIVEN * usual, 1e-9) / np.maximum(off, 1e-12), 1.0))
    errors = features @ values / target - 1
    return Fit(dict(zip(names, values.tolist(), strict=True)), tuple(errors.tolist()))


def _non_negative(features: Array, target: Array) -> Array:
    """Lawson and Hanson's active set, on columns of unit length."""
    lengths = np.linalg.norm(features, axis=0)
    columns = features / lengths
    count = columns.shape[1]
    found, free = np.zeros(count), np.zeros(count, bool)
    for _ in range(3 * count + 3):
        gain = columns.T @ (target - columns @ found)
        gain[free] = -np.inf
        if not (~free).any() or gain.max() <= 1e-10 * np.linalg.norm(target):
            break
        free[int(gain.argmax())] = True
        while True:
            trial = np.zeros(count)
            trial[free] = np.linalg.lstsq(columns[:, free], target, rcond=None)[0]
            if (trial[free] > 0).all():
                break
            falling = free & (trial <= 0)
            step = float(np.min(found[falling] / np.maximum(found[falling] - trial[falling], 1e-300)))
            found = found + step * (trial - found)
            free &= found > 1e-14
        found = trial
    result: Array = found / lengths
    return result
