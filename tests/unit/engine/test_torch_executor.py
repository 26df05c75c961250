from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tercet.core.errors import UsageError
from tercet.core.sampling import SamplingParams
from tercet.engine.sequence import Batch
from tercet.engine.torch_executor import TorchExecutor
from tests.unit.engine.model_lab import VOCAB, Driver, build, greedy, new_sequence, write_config

PROMPT = [(7 * i * i + 3 * i + 11) % VOCAB for i in range(37)]
OTHER = [(5 * i * i + 13 * i + 1) % VOCAB for i in range(50)]
STEPS = 10
BLOCKS = list(range(20, 34))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with weights, as transformers itself saves them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = write_config(tmp_path_factory.mktemp("model"))
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=torch.float32)
    for name, parameter in model.named_parameters():  # norms that are not all ones, so that folding them shows
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(path)
    return path


@pytest.fixture
def executor(folder: Path) -> Iterator[TorchExecutor]:
    made = build(folder, random_weights=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[int]:
    """What transformers' own generate() answers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([PROMPT])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=STEPS + 1,
        min_new_tokens=STEPS + 1,
        do_sample=False,
        eos_token_id=None,
    )
    tokens: list[int] = out[0, len(PROMPT) :].tolist()
    return tokens


def test_expected_answer_is_not_trivial(expected: list[int]) -> None:
    assert len(set(expected)) > 3


@pytest.mark.parametrize(
    "chunks", [[37], [1] * 37, [4] * 9 + [1], [5, 32], [36, 1], [16, 16, 5]], ids=lambda c: f"{len(c)}x{c[0]}"
)
def test_greedy_equals_generate_however_chunked(
    executor: TorchExecutor, expected: list[int], chunks: list[int]
) -> None:
    assert Driver(executor).run(new_sequence(PROMPT, BLOCKS), chunks, STEPS) == expected


def test_block_placement_does_not_matter(executor: TorchExecutor, expected: list[int]) -> None:
    scattered = [63, 0, 17, 5, 41, 40, 39, 2, 60, 11, 12, 50, 33]
    assert Driver(executor).run(new_sequence(PROMPT, scattered), [20, 17], STEPS) == expected


def test_batch_composition_does_not_matter(executor: TorchExecutor, expected: list[int]) -> None:
    driver = Driver(executor)
    first = new_sequence(PROMPT, BLOCKS)
    others = [new_sequence(OTHER[: 5 * i], range(34 + 8 * i, 42 + 8 * i)) for i in (1, 2)]
    late = new_sequence(OTHER[:20], range(0, 12))
    driver.step((others[0], 5), (first, 30))
    driver.step((first, 7), (others[1], 3), (others[0], 1))
    driver.step((others[1], 7), (first, 1), (others[0], 1))
    driver.step((first, 1), (late, 19), (others[0], 1), (others[1], 1))
    driver.step((late, 1), (first, 1), (others[0], 1), (others[1], 1))
    driver.decode(others[0], first, late, others[1], steps=STEPS - 3)
    assert first.tokens[len(PROMPT) :] == expected
    alone = new_sequence(OTHER[:20], range(0, 12))
    assert Driver(executor).run(alone, [20], 5) == late.tokens[20:26]


def test_prefix_reuse_reads_another_sequences_blocks(executor: TorchExecutor, expected: list[int]) -> None:
    driver = Driver(executor)
    driver.run(new_sequence(PROMPT[:32], BLOCKS), [32], 0)
    second = new_sequence(PROMPT, BLOCKS[:8] + list(range(40, 46)))
    second.computed = 32
    assert driver.run(second, [5], STEPS) == expected


def test_blocks_copied_as_bytes_serve_another_executor(
    executor: TorchExecutor, folder: Path, expected: list[int]
) -> None:
    source = new_sequence(PROMPT, BLOCKS)
    Driver(executor).run(source, [37], 0)
    receiver = build(folder, random_weights=False)
    assert receiver.layout.fingerprint == executor.layout.fingerprint
    size = executor.layout.block_bytes
    moved = list(range(3, 3 + len(BLOCKS)))
    for a, b in zip(BLOCKS, moved, strict=True):
        receiver.pool[b * size : (b + 1) * size] = executor.pool[a * size : (a + 1) * size]
    sequence = new_sequence(PROMPT, moved)
    sequence.tokens.append(source.tokens[-1])
    sequence.computed = len(PROMPT)
    Driver(receiver).decode(sequence, steps=STEPS)
    assert sequence.tokens[len(PROMPT) :] == expected
    receiver.close()


def test_seeded_sampling_is_the_same_on_every_route(executor: TorchExecutor) -> None:
    params = SamplingParams(max_tokens=9, temperature=1.5, top_p=0.9, seed=99)
    whole = Driver(executor).run(new_sequence(PROMPT, BLOCKS, params), [37], STEPS)
    driver = Driver(executor)
    batched, other = new_sequence(PROMPT, BLOCKS, params), new_sequence(OTHER[:9], range(40, 50))
    driver.step((other, 9))
    driver.step((batched, 16), (other, 1))
    driver.step((other, 1), (batched, 21))
    driver.decode(other, batched, steps=STEPS)
    assert batched.tokens[37:] == whole
    assert len(set(whole)) > 5


def test_resuming_from_the_middle_samples_the_same(executor: TorchExecutor) -> None:
    params = SamplingParams(max_tokens=9, temperature=1.0, seed=5)
    whole = Driver(executor).run(new_sequence(PROMPT, BLOCKS, params), [37], STEPS)
    resumed = new_sequence(PROMPT, BLOCKS, params)
    resumed.tokens += whole[:4]  # preempted after four tokens: recompute prompt and output
    assert Driver(executor).run(resumed, [41], STEPS - 4) == whole


def test_entries_follow_the_batch_and_are_none_without_sampling(executor: TorchExecutor) -> None:
    driver = Driver(executor)
    a, b = new_sequence(PROMPT, BLOCKS), new_sequence(OTHER[:6], range(40, 50))
    assert driver.step((a, 10)) == [None]
    results = driver.step((a, 10), (b, 6))
    assert results[0] is None and results[1] is not None
    assert executor.execute(Batch(())) == []


def test_min_tokens_bans_the_end(executor: TorchExecutor, expected: list[int]) -> None:
    banned = frozenset(expected[:1])
    params = SamplingParams(max_tokens=4, temperature=0.0, min_tokens=1, stop_token_ids=banned)
    first = Driver(executor).run(new_sequence(PROMPT, BLOCKS, params), [37], 0)
    assert first[0] not in banned
    late = SamplingParams(max_tokens=4, temperature=0.0, min_tokens=0, stop_token_ids=banned)
    assert Driver(executor).run(new_sequence(PROMPT, BLOCKS, late), [37], 0) == expected[:1]


def test_bf16_rounds_weights_and_pool(folder: Path) -> None:
    executor = build(folder, dtype="bf16", random_weights=False)
    fp32 = build(folder, random_weights=False)
    assert executor.layout.block_bytes * 2 == fp32.layout.block_bytes
    assert executor.layout.fingerprint != fp32.layout.fingerprint
    whole = Driver(executor).run(new_sequence(PROMPT, BLOCKS), [37], STEPS)
    assert whole == Driver(executor).run(new_sequence(PROMPT, BLOCKS), [16, 21], STEPS)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": False}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}}),
        ("mistral", {"sliding_window": 9}),
        ("qwen2", {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
        ("qwen3", {}),
        ("granite", {"attention_multiplier": 0.3, "residual_multiplier": 0.7, "logits_scaling": 2.0}),
        ("olmo2", {}),
        ("phi3", {"pad_token_id": 0}),
    ],
    ids=str,
)
def test_other_architectures_equal_generate(tmp_path: Path, model_type: str, changes: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = write_config(tmp_path / "m", model_type, **changes)
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    ids = torch.tensor([PROMPT])  # with a mask, or generate() would hide prompt tokens that look like padding
    mask = torch.ones_like(ids)
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False, eos_token_id=None
    )
    executor = build(folder, random_weights=False)
    answer = Driver(executor).run(new_sequence(PROMPT, BLOCKS), [20, 17], 5)
    assert answer == out[0, len(PROMPT) :].tolist()
    executor.close()


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    answers, prints = [], []
    for seed in (0, 0, 1):
        executor = build(folder, seed=seed)
        answers.append(Driver(executor).run(new_sequence(PROMPT, BLOCKS, greedy()), [37], 6))
        prints.append(executor.layout.fingerprint)
        executor.close()
    assert answers[0] == answers[1] != answers[2]
    assert prints[0] == prints[1] != prints[2]


def test_pool_is_sized_by_bytes(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    block = 2 * 2 * 2 * 16 * 4 * 4
    executor = build(folder, num_blocks=0, kv_bytes=10 * block + 5)
    assert (executor.layout.num_blocks, executor.layout.block_bytes, len(executor.pool)) == (10, block, 10 * block)
    executor.close()
    capped = build(folder, num_blocks=0, kv_bytes=10**7, max_num_seqs=2, max_model_len=40)
    assert capped.layout.num_blocks == 20
    capped.close()


def test_length_is_cut_to_the_models(tmp_path: Path) -> None:
    executor = build(write_config(tmp_path / "m"), max_model_len=4096)
    assert (executor.max_model_len, executor.vocab_size, executor.eos_token_ids) == (512, VOCAB, frozenset({2}))
    executor.close()


def test_memory_can_be_freed_after_close(tmp_path: Path) -> None:
    from multiprocessing.shared_memory import SharedMemory

    segments: list[SharedMemory] = []

    def make(nbytes: int) -> memoryview:
        segments.append(SharedMemory(create=True, size=nbytes))
        assert segments[0].buf is not None
        return segments[0].buf[:nbytes]

    executor = build(write_config(tmp_path / "m"), pool_factory=make)
    view = executor.pool
    executor.close()
    view.release()
    segments[0].close()
    segments[0].unlink()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "tpu:0"}, "unknown device"),
        ({"dtype": "fp8"}, "unknown dtype"),
        ({"num_blocks": 0, "kv_bytes": 5}, "hold no KV block"),
        ({"threads": 0}, "at least 1"),
        ({"device": "cuda:99"}, "not there"),
    ],
    ids=str,
)
def test_wrong_settings_are_explained(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(write_config(tmp_path / "m"), **changes)


def test_wrong_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        build(tmp_path)
    with pytest.raises(UsageError, match="can't be loaded"):
        build(write_config(tmp_path / "m"), random_weights=False)
