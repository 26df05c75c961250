"""Ask smollm2-vision about pictures it has never seen, through the built-in engine, greedily.

python -m training.vision.evaluate --pictures 200 --dtype bf16
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from tercet.core.image import ImageSpan
from tercet.core.sampling import SamplingParams
from tercet.engine.sequence import Batch, Chunk
from tercet.engine.sequence import Sequence as Talk
from tercet.engine.torch_executor import TorchExecutor, build_torch_executor
from tercet.engine.vision import build_vision_executor
from tercet.media.preprocess import load_preprocessing
from tercet.text.tokenizer import load_tokenizer
from training.vision.pictures import COLOURS, SHAPES, Facts, picture_stream

UNSEEN_SEED = 1_000_003
"""Training draws its pictures from other seeds."""

QUESTIONS = {"colour": "What colour is the shape?", "shape": "Which shape is it?"}
_BLOCK = 16
_BLOCKS_EACH = 16
_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Answered:
    """One question about one picture. `right` when the answer names what is there and nothing else of its kind."""

    facts: Facts
    kind: str
    answer: str

    @property
    def right(self) -> bool:
        """Judge the answer: the right word, and no other colour (or shape)."""
        words, wanted = (COLOURS, self.facts.colour) if self.kind == "colour" else (SHAPES, self.facts.shape)
        named = {word for word in words if re.search(rf"\b{word}s?\b", self.answer.lower())}
        return named == {wanted}


class Seer:
    """The whole model in one process: preprocessing, encoder, executor, tokeniser."""

    def __init__(self, folder: Path, *, dtype: str, threads: int = 1) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._prepare = load_preprocessing(folder)
        self.vision = build_vision_executor(folder, dtype=dtype, device="cpu", threads=threads)
        self._store: dict[str, torch.Tensor] = {}
        self._engine: TorchExecutor = build_torch_executor(
            folder,
            dtype=dtype,
            device="cpu",
            block_size=_BLOCK,
            num_blocks=_TOGETHER * _BLOCKS_EACH,
            kv_bytes=0,
            max_num_seqs=_TOGETHER,
            max_num_batched_tokens=512,
            max_model_len=_BLOCK * _BLOCKS_EACH,
            threads=threads,
            pool_factory=lambda nbytes: memoryview(bytearray(nbytes)),
            embeddings=self._store,
        )

    def see(self, key: str, picture: Image.Image) -> None:
        """Encode a picture and keep its rows as `key`."""
        self._store[key] = self.vision.rows(torch.from_numpy(self._prepare(picture)))

    def rows(self, key: str) -> torch.Tensor:
        """Return a picture's rows."""
        return self._store[key]

    def ask(self, questions: Iterable[tuple[str | None, str]], max_tokens: int = 10) -> list[str]:
        """Answer (key of a picture or None, question) pairs, greedily."""
        talks = [self._talk(i, key, question) for i, (key, question) in enumerate(questions)]
        for first in range(0, len(talks), _TOGETHER):
            some = talks[first : first + _TOGETHER]
            for number, talk in enumerate(some):
                talk.blocks = list(range(number * _BLOCKS_EACH, (number + 1) * _BLOCKS_EACH))
                self._step([Chunk(talk, 0, talk.prompt_len, True)])
            while open_talks := [talk for talk in some if self._goes_on(talk, max_tokens)]:
                self._step([Chunk(talk, len(talk.tokens) - 1, 1, True) for talk in open_talks])
        return [self._tokenizer.decode(talk.tokens[talk.prompt_len :]) for talk in talks]

    def _step(self, chunks: list[Chunk]) -> None:
        for chunk, sampled in zip(chunks, self._engine.execute(Batch(tuple(chunks))), strict=True):
            assert sampled is not None
            chunk.sequence.tokens.append(sampled.token)

    def _goes_on(self, talk: Talk, max_tokens: int) -> bool:
        return talk.output_len < max_tokens and talk.tokens[-1] not in self._engine.eos_token_ids

    def close(self) -> None:
        """Free both executors."""
        self._engine.close()
        self.vision.close()

    def _talk(self, number: int, key: str | None, question: str) -> Talk:
        parts: list[dict[str, object]] = []
        if key is not None:
            parts.append({"type": "image_url", "image_url": {"url": key}})
        parts.append({"type": "text", "text": question})
        prompt = self._tokenizer.encode_chat([{"role": "user", "content": parts}])
        return Talk(
            id=f"q{number}",
            tokens=prompt.tokens,
            prompt_len=len(prompt.tokens),
            sampling=SamplingParams(max_tokens=_BLOCK, temperature=0.0),
            arrival=0.0,
            root=b"",
            images=tuple(ImageSpan(str(key), start, self.vision.tokens_per_picture) for start in prompt.starts),
        )


def evaluate(seer: Seer, pictures: int, questions: dict[str, str] | None = None) -> list[Answered]:
    """Ask every question about `pictures` unseen ones."""
    asked: list[tuple[Facts, str, str, str]] = []
    for number, (picture, facts) in enumerate(islice(picture_stream(UNSEEN_SEED), pictures)):
        seer.see(str(number), picture)
        asked += [(facts, kind, str(number), text) for kind, text in (questions or QUESTIONS).items()]
    answers = seer.ask((key, text) for _, _, key, text in asked)
    return [Answered(facts, kind, answer) for (facts, kind, _, _), answer in zip(asked, answers, strict=True)]


def share_right(answered: Sequence[Answered], kind: str) -> float:
    """Return the share of right answers to the questions of one kind."""
    some = [answer.right for answer in answered if answer.kind == kind]
    return sum(some) / len(some)


def main() -> None:
    """Print the shares of right answers, and what went wrong."""
    from tercet.engine.models.store import resolve

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="smollm2-vision")
    options = parser.parse_args()
    seer = Seer(resolve(options.model).path, dtype=options.dtype, threads=options.threads)
    answered = evaluate(seer, options.pictures)
    for kind, text in QUESTIONS.items():
        print(f"{options.dtype} {text!r}: {share_right(answered, kind):.1%} of {options.pictures} right")
    for item in answered:
        if not item.right:
            print(f"  {item.kind}: {item.facts.count} {item.facts.colour} {item.facts.noun} -> {item.answer!r}")
    seer.close()


if __name__ == "__main__":
    main()
