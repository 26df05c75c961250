"""The bundled model, in fp32, against transformers' own generate()."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tercet.compare.admin import CAPITAL_QUESTION
from tercet.core.sampling import SamplingParams
from tercet.engine.models.store import resolve
from tercet.engine.torch_executor import TorchExecutor
from tests.unit.engine.model_lab import Driver, build, greedy, new_sequence

pytestmark = pytest.mark.slow

STEPS = 23
QUESTION = f"<|im_start|>user\n{CAPITAL_QUESTION}<|im_end|>\n<|im_start|>assistant\n"
STORY = "Once upon a time, in a village by the sea, there lived a clockmaker who had never seen the sun rise. " * 4


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve("smollm2-135m").path


def encode(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[int]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = {}
    for text in (QUESTION, STORY):
        ids = torch.tensor([encode(folder, text)])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=STEPS + 1,
            min_new_tokens=STEPS + 1,
            do_sample=False,
            eos_token_id=None,
        )
        answers[text] = out[0, ids.shape[1] :].tolist()
    return answers


@pytest.fixture(scope="module", params=[1, 2], ids=["compiled", "two threads"])
def executor(request: pytest.FixtureRequest, folder: Path) -> Iterator[TorchExecutor]:
    """One thread takes the compiled linears where they win; two take torch's."""
    made = build(folder, random_weights=False, block_size=16, num_blocks=64, max_model_len=512, threads=request.param)
    yield made
    made.close()
    torch.set_num_threads(1)


@pytest.mark.parametrize("chunk", [1000, 16, 7])
def test_greedy_equals_generate_however_chunked(
    executor: TorchExecutor, folder: Path, expected: dict[str, list[int]], chunk: int
) -> None:
    for text, answer in expected.items():
        ids = encode(folder, text)
        whole, rest = divmod(len(ids), chunk)
        chunks = [chunk] * whole + ([rest] if rest else [])
        assert Driver(executor).run(new_sequence(ids, range(12)), chunks, STEPS) == answer


def test_greedy_equals_generate_beside_others(
    executor: TorchExecutor, folder: Path, expected: dict[str, list[int]]
) -> None:
    driver = Driver(executor)
    question, story = (
        new_sequence(encode(folder, text), range(first, first + 12)) for text, first in ((QUESTION, 0), (STORY, 20))
    )
    sampled = new_sequence(
        encode(folder, STORY)[:50], range(40, 50), SamplingParams(max_tokens=64, temperature=1.0, seed=3)
    )
    driver.step((question, len(question.tokens)))
    driver.step((question, 1), (sampled, 50))
    driver.step((story, 30), (question, 1), (sampled, 1))
    driver.step((question, 1), (sampled, 1), (story, len(story.tokens) - 30))
    driver.decode(sampled, question, story, steps=STEPS)
    assert question.tokens[question.prompt_len :][: STEPS + 1] == expected[QUESTION]
    assert story.tokens[story.prompt_len :] == expected[STORY]


def test_it_knows_the_capital_of_france_in_bf16(folder: Path) -> None:
    from tokenizers import Tokenizer

    executor = build(folder, dtype="bf16", random_weights=False, block_size=16, num_blocks=16, max_model_len=256)
    ids = encode(folder, QUESTION)
    answer = Driver(executor).run(new_sequence(ids, range(8), greedy()), [9, len(ids) - 9], 9)
    assert "Paris" in Tokenizer.from_file(str(folder / "tokenizer.json")).decode(answer)
    executor.close()
