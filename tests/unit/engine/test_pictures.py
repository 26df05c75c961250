"""The language half of a model that sees: a picture's rows stand where its placeholders are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tercet.core.image import ImageSpan
from tercet.engine.encoder import EmbeddingError
from tercet.engine.models.random_model import random_model_folder
from tercet.engine.sequence import Batch, Chunk, Sequence
from tercet.engine.step_plan import make_plan
from tercet.engine.torch_executor import TorchExecutor
from tests.unit.engine.model_lab import Driver, build, new_sequence

STEPS = 10
TOKENS = 16
IMAGE = 259
FIRST, SECOND = ImageSpan("first", 5, TOKENS), ImageSpan("second", 30, TOKENS)
PROMPT = [*range(40, 45), *[IMAGE] * TOKENS, *range(60, 69), *[IMAGE] * TOKENS, *range(90, 97)]
BLOCKS = list(range(20, 40))


class Lab:
    """A tiny LLaVA as transformers saves it, its pictures' rows and its own answer."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, LlavaForConditionalGeneration

        config = json.loads((random_model_folder("tiny-llava", folder / "cache").path / "config.json").read_text())
        config["text_config"]["initializer_range"] = 0.3
        self.folder = folder / "model"
        self.folder.mkdir()
        (self.folder / "config.json").write_text(json.dumps(config))
        torch.manual_seed(3)
        model = LlavaForConditionalGeneration._from_config(AutoConfig.from_pretrained(self.folder)).eval()
        for name, parameter in model.named_parameters():
            if "multi_modal_projector" in name and parameter.dim() == 2:  # rows as large as the tokens' own
                torch.nn.init.normal_(parameter, std=0.6)
        model.save_pretrained(self.folder)
        self.pixels = torch.randn(2, 3, 32, 32)
        ids = torch.tensor([PROMPT])
        with torch.inference_mode():
            rows = model.get_image_features(pixel_values=self.pixels, return_dict=True).pooler_output
            out = model.generate(
                input_ids=ids,
                pixel_values=self.pixels,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=STEPS + 1,
                min_new_tokens=STEPS + 1,
                do_sample=False,
                eos_token_id=None,
            )
        self.rows = {"first": rows[0], "second": rows[1]}
        self.expected: list[int] = out[0, len(PROMPT) :].tolist()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def executor(lab: Lab) -> Iterator[TorchExecutor]:
    made = build(lab.folder, random_weights=False, embeddings=lab.rows)
    yield made
    made.close()


def seeing(*images: ImageSpan, blocks: list[int] | None = None) -> Sequence:
    sequence = new_sequence(PROMPT, blocks or BLOCKS)
    sequence.images = images
    return sequence


@pytest.mark.parametrize("chunks", [[53], [1] * 53, [10, 30, 13], [21, 32]], ids=lambda c: f"{len(c)}x{c[0]}")
def test_greedy_equals_generate_however_chunked(executor: TorchExecutor, lab: Lab, chunks: list[int]) -> None:
    assert len(set(lab.expected)) > 3
    assert Driver(executor).run(seeing(FIRST, SECOND), chunks, STEPS) == lab.expected


def test_transformers_own_forward_sees_the_same(lab: Lab) -> None:
    """What is not fused goes through `inputs_embeds`."""
    from tercet.engine.backend import CpuBackend
    from tercet.engine.loader import load_model

    backend = CpuBackend("fp32", 1)
    loaded = load_model(lab.folder, backend, dtype="fp32", block_size=4, max_model_len=256, fused=False)
    executor = TorchExecutor(loaded, backend, 64, memoryview(bytearray(64 * loaded.kv.block_bytes)), lab.rows)
    assert Driver(executor).run(seeing(FIRST, SECOND), [10, 30, 13], STEPS) == lab.expected


def test_other_sequences_in_the_batch_keep_their_own_rows(executor: TorchExecutor, lab: Lab) -> None:
    text = new_sequence(PROMPT[:20], range(0, 10))
    alone = Driver(executor).run(new_sequence(PROMPT[:20], range(0, 10)), [20], STEPS)
    driver, both = Driver(executor), seeing(FIRST, SECOND)
    driver.step((text, 7), (both, 8))
    driver.step((both, 45), (text, 13))
    driver.decode(text, both, steps=STEPS)
    assert both.tokens[len(PROMPT) :] == lab.expected
    assert text.tokens[20:] == alone


def test_the_picture_decides_the_answer(executor: TorchExecutor, lab: Lab) -> None:
    swapped = seeing(replace(FIRST, key="second"), replace(SECOND, key="first"))
    assert Driver(executor).run(swapped, [53], STEPS) != lab.expected
    assert Driver(executor).run(seeing(), [53], STEPS) != lab.expected


def test_rows_that_are_gone_are_an_error_not_an_answer(executor: TorchExecutor) -> None:
    with pytest.raises(EmbeddingError, match="'lost' at position 5 and finds no embeddings"):
        Driver(executor).run(seeing(replace(FIRST, key="lost")), [53], 0)
    with pytest.raises(EmbeddingError, match="finds 16 rows"):
        Driver(executor).run(seeing(replace(FIRST, length=12)), [53], 0)


def test_a_plan_places_only_the_rows_of_its_chunk() -> None:
    rows = torch.arange(TOKENS * 2.0).view(TOKENS, 2)
    chunks = (Chunk(seeing(FIRST), 7, 5, False), Chunk(seeing(FIRST), 20, 1, False), Chunk(seeing(FIRST), 21, 4, False))
    plan = make_plan(Batch(chunks), 4, torch.device("cpu"), grouped=False, embeddings={"first": rows})
    # The single comes first; the third chunk has no row of the picture.
    assert [(o.first, o.rows[:, 0].tolist()) for o in plan.overrides] == [(0, [30]), (1, [4, 6, 8, 10, 12])]
