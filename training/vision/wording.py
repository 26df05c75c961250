"""Which caption should a picture's rows stand for? Ask with text alone, before training towards it.

    python -m training.vision.wording [--pictures 48] [--caption "The shape is a {shape}. The color is {colour}."]

A caption can name {count}, {colour}, {noun} (the shape, in the plural where there are several), {place}, {they_are},
{article} and {shape}. Prints the share of right answers: the most that a picture can reach.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np

from tercet.engine.models.store import resolve
from training.vision.caption import CAPTION, caption
from training.vision.evaluate import QUESTIONS, Answered, Seer, share_right
from training.vision.pictures import COLOURS, COUNTS, PLACES, SHAPES, Facts


def told(seer: Seer, template: str, number: int) -> list[Answered]:
    """Ask both questions about `number` pictures that are only told of, greedily."""
    rng = np.random.default_rng(0)
    every = [Facts(s, c, str(rng.choice(COUNTS)), str(rng.choice(list(PLACES)))) for s, c in product(SHAPES, COLOURS)]
    chosen = [every[i] for i in rng.permutation(len(every))[:number]]
    asked = list(product(chosen, QUESTIONS.items()))
    answers = seer.ask((None, f"{caption(facts, template)}\n{question}") for facts, (_, question) in asked)
    return [Answered(facts, kind, answer) for (facts, (kind, _)), answer in zip(asked, answers, strict=True)]


def main() -> None:
    """Print the shares for one caption."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caption", default=CAPTION)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    seer = Seer(resolve("smollm2-vision").path, dtype="fp32", threads=options.threads)
    answered = told(seer, options.caption, options.pictures)
    for kind, question in QUESTIONS.items():
        print(f"{question!r}: {share_right(answered, kind):.1%} of {options.pictures} right")
    for item in answered:
        if not item.right:
            print(f"  {item.kind}: {item.facts.colour} {item.facts.shape} -> {item.answer!r}")


if __name__ == "__main__":
    main()
