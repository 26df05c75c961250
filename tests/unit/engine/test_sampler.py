from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from tercet.core.sampling import SampledToken, SamplingParams
from tercet.engine.sampler import NUCLEUS_CANDIDATES, STRIDE, SampleRequest, sample, uniform


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=1, **changes)


def wish(position: int = 0, banned: tuple[int, ...] = (), **changes: Any) -> SampleRequest:
    return SampleRequest(params(**changes), position, banned)


def tokens(sampled: list[SampledToken]) -> list[int]:
    return [s.token for s in sampled]


def draws(row: torch.Tensor, count: int, seed: int = 11, **changes: Any) -> Counter[int]:
    """Tokens drawn from one row of logits at positions 0 .. count-1."""
    requests = [wish(position, seed=seed, **changes) for position in range(count)]
    return Counter(tokens(sample(row.expand(count, -1).clone(), requests)))


def chi_square(counts: Counter[int], expected: dict[int, float], total: int) -> float:
    """Pearson's statistic; a token outside `expected` makes it infinite."""
    if set(counts) - set(expected):
        return math.inf
    return sum((counts[t] - total * p) ** 2 / (total * p) for t, p in expected.items())


LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.0, -3.0, 0.0])


def softmax(values: dict[int, float]) -> dict[int, float]:
    total = sum(math.exp(v) for v in values.values())
    return {t: math.exp(v) / total for t, v in values.items()}


# The 99.9th percentiles of chi-square with 5, 2 and 1 degrees of freedom. Draws are hashes: a pass is a pass for ever.
@pytest.mark.parametrize(
    ("changes", "kept", "temperature", "limit"),
    [
        ({}, range(6), 1.0, 20.5),
        ({"temperature": 0.5}, range(6), 0.5, 20.5),
        ({"temperature": 2.0}, range(6), 2.0, 20.5),
        ({"top_k": 3}, (0, 3, 2), 1.0, 13.8),
        ({"top_p": 0.7}, (0, 3), 1.0, 10.8),
        ({"top_k": 3, "top_p": 0.8}, (0, 3), 1.0, 10.8),
        ({"top_k": 3, "top_p": 0.9}, (0, 3, 2), 1.0, 13.8),
        ({"top_k": 99}, range(6), 1.0, 20.5),
        ({"top_k": 1}, (0,), 1.0, 0.1),
        ({"top_p": 0.01}, (0,), 1.0, 0.1),
        ({"temperature": 0.0}, (0,), 1.0, 0.1),
        ({"banned": (0, 3)}, (1, 2, 4, 5), 1.0, 16.3),
    ],
    ids=str,
)
def test_distribution(changes: dict[str, Any], kept: Any, temperature: float, limit: float) -> None:
    expected = softmax({t: float(LOGITS[t]) / temperature for t in kept})
    assert chi_square(draws(LOGITS, 4000, **changes), expected, 4000) < limit


@pytest.mark.parametrize("vocabulary", [STRIDE, 3 * STRIDE, 3 * STRIDE + 1, 1000])
def test_large_vocabularies_are_drawn_from_evenly(vocabulary: int) -> None:
    """Tokens in 10 classes of equal weight; one in the last place, where padding begins, must be reachable."""
    logits = torch.full((vocabulary,), -math.inf)
    places = [vocabulary - 1 - i * (vocabulary // 10) for i in range(10)]
    logits[places] = 0.7
    assert chi_square(draws(logits, 3000), dict.fromkeys(places, 0.1), 3000) < 27.9


def test_a_wrong_distribution_would_be_noticed() -> None:
    expected = softmax({t: float(LOGITS[t]) for t in range(6)})
    assert chi_square(draws(LOGITS, 4000, temperature=1.3), expected, 4000) > 20.5


def test_nucleus_wider_than_the_usual_candidates() -> None:
    vocabulary = 4 * NUCLEUS_CANDIDATES
    counts = draws(torch.zeros(vocabulary), 600, top_p=0.5)
    assert len(counts) > 450  # 600 draws from 2048 tokens hit 520 of them
    assert max(counts) < vocabulary // 2  # ties in a full sort keep token order: the first half is the nucleus
    almost = draws(torch.zeros(vocabulary), 200, top_p=0.2)
    assert len(set(almost)) <= 0.2 * vocabulary + 1


def test_uniform_fills_its_interval_and_ignores_neighbours() -> None:
    numbers = [uniform(seed, position) for seed in range(40) for position in range(100)]
    assert min(numbers) >= 0.0 and max(numbers) < 1.0
    assert len(set(numbers)) == 4000
    bins = Counter(int(n * 20) for n in numbers)
    assert sum((bins[b] - 200) ** 2 / 200 for b in range(20)) < 43.8  # 99.9% of chi-square(19)
    assert all(abs(uniform(s, p) - uniform(s + 1, p)) > 1e-6 for s in range(30) for p in range(30))
    assert uniform(-3, 5) != uniform(3, 5)
    assert uniform(2**70 + 1, 0) == uniform(1 + 2**70 % 2**64, 0)


MIX = [
    wish(3),
    wish(9, temperature=0.0),
    wish(4, temperature=0.7, top_p=0.9, seed=2),
    wish(4, temperature=0.7, top_k=5, seed=2),
    wish(8, top_k=7, top_p=0.5, seed=8),
    wish(1, seed=77, logprobs=2),
    wish(1, top_p=0.95, seed=77, banned=(3, 4)),
    wish(2, seed=77, top_k=1, logprobs=0),
]


def test_rows_do_not_influence_one_another() -> None:
    logits = torch.randn(len(MIX), 3000, generator=torch.Generator().manual_seed(0)) * 3
    together = sample(logits, MIX)
    alone = [sample(logits[i : i + 1], [MIX[i]])[0] for i in range(len(MIX))]
    backwards = sample(logits.flip(0), MIX[::-1])[::-1]
    assert tokens(together) == tokens(alone) == tokens(backwards)


def test_ties_are_broken_the_same_in_every_batch() -> None:
    logits = torch.randn(len(MIX), 3000, generator=torch.Generator().manual_seed(0)).mul(2).round()
    assert tokens(sample(logits, MIX)) == [sample(logits[i : i + 1], [MIX[i]])[0].token for i in range(len(MIX))]


def test_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = draws(LOGITS, 50)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert draws(LOGITS, 50) == first != draws(LOGITS, 50, seed=12)


@pytest.mark.parametrize("changes", [{}, {"top_k": 3}, {"top_p": 0.9}])
@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-40, 1e-37, 9e-6, 1e-5])
def test_a_temperature_near_zero_takes_the_most_likely(temperature: float, changes: dict[str, Any]) -> None:
    """Logits divided by it are infinite, and nothing can be drawn from those; other rows are in the same step."""
    warm = wish(7, seed=3)
    got = sample((LOGITS * 10).repeat(2, 1), [wish(temperature=temperature, seed=1, **changes), warm])
    assert tokens(got) == [0, *tokens(sample((LOGITS * 10)[None], [warm]))]


@pytest.mark.parametrize("changes", [{}, {"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_when_every_token_is_banned_none_is(changes: dict[str, Any]) -> None:
    everything = tuple(range(len(LOGITS)))
    got = tokens(sample(LOGITS.repeat(2, 1), [wish(5, banned=everything, **changes), wish(5, banned=(0,), **changes)]))
    assert got == tokens(sample(LOGITS.repeat(2, 1), [wish(5, **changes), wish(5, banned=(0,), **changes)]))


def test_a_banned_token_that_the_model_lacks_is_no_fault() -> None:
    assert tokens(sample(LOGITS[None].clone(), [wish(temperature=0.0, banned=(0, len(LOGITS), 10**6))])) == [3]


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    request = wish(temperature=0.1, top_k=2, logprobs=3, banned=(0,), seed=4)
    answer = sample(LOGITS[None].clone(), [request])[0]
    expected = softmax(dict(enumerate(LOGITS.tolist())))
    assert answer.token == 3
    assert answer.logprob == pytest.approx(math.log(expected[3]), abs=1e-5)
    assert [t for t, _ in answer.top] == [0, 3, 2]
    assert [p for _, p in answer.top] == pytest.approx([math.log(expected[t]) for t in (0, 3, 2)], abs=1e-5)


def test_logprobs_only_where_asked_for() -> None:
    none, chosen, two = sample(LOGITS.repeat(3, 1), [wish(), wish(logprobs=0), wish(logprobs=2)])
    assert none.logprob is None and none.top == ()
    assert chosen.logprob is not None and chosen.top == ()
    assert len(two.top) == 2


def test_more_logprobs_than_vocabulary() -> None:
    assert len(sample(LOGITS[None], [wish(logprobs=20)])[0].top) == len(LOGITS)


def test_logits_are_left_as_they_were() -> None:
    logits = LOGITS[None].clone()
    sample(logits, [wish(temperature=0.3, top_p=0.5, banned=(0,), logprobs=1)])
    assert torch.equal(logits[0], LOGITS)


def test_half_precision_logits() -> None:
    assert tokens(sample(LOGITS[None].bfloat16(), [wish(temperature=0.0)])) == [0]
