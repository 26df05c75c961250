"""The caption that a picture's rows stand for, as SmolLM2's embeddings of its tokens.

The wording was searched with text alone (`wording.py`): what the language model can't answer from a caption it is told,
it can't answer from a picture either.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from training.vision.pictures import COLOURS, COUNTS, PLACES, SHAPES, Facts

CAPTION = (
    "The picture shows {count} {colour} {noun}, and {they_are} {place}."
    + 5 * " The shape is {article} {colour} {shape}."
)
"""49 tokens whatever the words: on a 7 x 7 grid of patches the first sentence is two rows, each of the others one.

Told this, SmolLM2 names the shape in 48 of 48 and the colour in 48 of 48. Told once, it forgets the colour.
"""


def caption(facts: Facts, template: str = CAPTION) -> str:
    """Return what a picture's rows say."""
    return template.format(
        count=facts.count,
        colour=facts.colour,
        noun=facts.noun,
        they_are="it is" if facts.count == "one" else "they are",
        place=facts.place,
        article="an" if facts.colour[0] in "aeiou" else "a",
        shape=facts.shape,
    )


class Captions:
    """Captions as token ids, one for each of `rows` rows: the caption, again and again if there is more room."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        self._tokenizer = tokenizer
        self._rows = rows
        self._known: dict[Facts, list[int]] = {}

    def ids(self, facts: Facts) -> list[int]:
        """Return the token of each row."""
        found = self._known.get(facts)
        if found is None:
            ids = self._tokenizer.encode(caption(facts), add_special_tokens=False).ids
            found = self._known[facts] = (ids * -(-self._rows // len(ids)))[: self._rows]
        return found

    def vocabulary(self) -> list[int]:
        """Return every token that some caption holds, in order."""
        every = {
            token
            for shape in SHAPES
            for colour in COLOURS
            for count in COUNTS
            for place in PLACES
            for token in self.ids(Facts(shape, colour, count, place))
        }
        return sorted(every)


def language_embeddings(folder: Path) -> torch.Tensor:
    """Return the table [vocabulary, hidden] of a language model's folder, in fp32."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        table: torch.Tensor = file.get_tensor("model.embed_tokens.weight")
    return table.float()
