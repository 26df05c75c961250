"""The training of the vision tower: small, seeded, resumable; what it makes is what the package reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from training.vision.caption import Captions, caption
from training.vision.evaluate import Answered
from training.vision.export import export
from training.vision.pictures import COLOURS, COUNTS, PLACES, SHAPES, Facts, picture_stream
from training.vision.train import Recipe, TowerShape, Trainer

SHAPE = TowerShape(image=28, patch=14, width=16, layers=1, heads=2)
RECIPE = Recipe(seed=7, steps=8, batch=4, warmup=2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from a second thread, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def words() -> Tokenizer:
    """A token a word."""
    text = " ".join(caption(Facts(s, c, n, p)) for s in SHAPES for c in COLOURS for n in COUNTS for p in PLACES)
    split = pre_tokenizers.Whitespace()
    vocabulary = sorted({word for word, _ in split.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, vocabulary[0]))
    tokenizer.pre_tokenizer = split
    return tokenizer


def trainer() -> Trainer:
    tokenizer = words()
    table = torch.randn(tokenizer.get_vocab_size(), 12, generator=torch.Generator().manual_seed(0))
    return Trainer(SHAPE, RECIPE, tokenizer, table)


def test_pictures_are_seeded_and_show_what_they_say() -> None:
    first, again, other = (list(islice(picture_stream(seed), 3)) for seed in (1, 1, 2))
    assert [(facts, picture.tobytes()) for picture, facts in first] == [
        (facts, picture.tobytes()) for picture, facts in again
    ]
    assert [facts for _, facts in first] != [facts for _, facts in other]
    for picture, facts in islice(picture_stream(3, (90, 90)), 30):
        pixels = np.asarray(picture).astype(int)
        near = (abs(pixels - np.array(COLOURS[facts.colour])) < 40).all(axis=2)
        assert near.mean() > 0.02, facts


def test_every_caption_fills_the_rows_of_the_shipped_tower() -> None:
    captions = Captions(words(), TowerShape().rows)
    for facts in (Facts("star", "orange", "one", "on the left"), Facts("heart", "red", "three", "at the top")):
        ids = captions.ids(facts)
        assert len(ids) == 49 and len(Captions(words(), 98).ids(facts)) == 98
        assert ids[-7:] == ids[-14:-7] == ids[14:21] != ids[:7]


def test_a_run_in_pieces_is_a_run_in_one_go(tmp_path: Path) -> None:
    whole = trainer()
    losses = [whole.advance()[0] for _ in range(4)]
    first = trainer()
    assert [first.advance()[0] for _ in range(2)] == losses[:2]
    first.save(tmp_path / "checkpoint.pt")
    second = trainer()
    second.load(tmp_path / "checkpoint.pt")
    assert [second.advance()[0] for _ in range(2)] == losses[2:]
    assert losses[3] < losses[0]
    with pytest.raises(SystemExit, match="another shape or recipe"):
        Trainer(SHAPE, Recipe(seed=8), words(), torch.randn(60, 12)).load(tmp_path / "checkpoint.pt")


def test_an_export_is_read_by_the_encoder(tmp_path: Path) -> None:
    """The rows that training saw are those that the engine computes, but for fp16."""
    from tercet.engine.vision import build_vision_executor

    made = trainer()
    made.advance()
    export(SHAPE, made.model.state_dict(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "text_config": {"model_type": "llama", "hidden_size": 12, "num_attention_heads": 2},
        "image_token_index": 5,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    executor = build_vision_executor(tmp_path, dtype="fp32", device="cpu", threads=1)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        expected = made.model(pixels)
    torch.testing.assert_close(
        torch.stack([executor.rows(one) for one in pixels]), expected, rtol=0, atol=0.01 * float(expected.abs().max())
    )


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("colour", "The shape is a blue star.", True),
        ("colour", "Blue.", True),
        ("colour", "The shape is a star.", False),
        ("colour", "It is blue and red.", False),
        ("shape", "There are two stars.", True),
        ("shape", "A star, or a heart", False),
    ],
)
def test_what_counts_as_right(kind: str, answer: str, right: bool) -> None:
    assert Answered(Facts("star", "blue", "two", "on the left"), kind, answer).right is right
