"""The bundled model that sees: what it answers, and that transformers reads the same folder the same way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from training.vision.evaluate import QUESTIONS, Seer, evaluate, share_right
from training.vision.pictures import picture_stream

from tercet.engine.models.store import resolve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve("smollm2-vision").path


@pytest.fixture(scope="module")
def seer(folder: Path) -> Iterator[Seer]:
    made = Seer(folder, dtype="fp32")
    yield made
    made.close()


def test_it_names_shape_and_colour_of_unseen_pictures(seer: Seer) -> None:
    """200 of them give 100% (colour) and 97% (shape): `python -m training.vision.evaluate`."""
    answered = evaluate(seer, 40)
    wrong = [f"{item.facts} {item.answer!r}" for item in answered if not item.right]
    for kind in QUESTIONS:
        assert share_right(answered, kind) >= 0.7, wrong


def test_transformers_sees_the_same(folder: Path, seer: Seer) -> None:
    """Its processor makes the same pixels and the same prompt, its model the same rows and the same greedy answer."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    question = QUESTIONS["shape"]
    for number, (picture, _) in enumerate(islice(picture_stream(17), 2)):
        seer.see(str(number), picture)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=picture, text=text, return_tensors="pt")
        with torch.inference_mode():
            rows = model.get_image_features(pixel_values=inputs.pixel_values, return_dict=True).pooler_output[0]
            made = model.generate(**inputs, max_new_tokens=10, do_sample=False)
        torch.testing.assert_close(seer.rows(str(number)), rows, rtol=1e-4, atol=1e-5)
        answer = processor.decode(made[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert seer.ask([(str(number), question)]) == [answer]
