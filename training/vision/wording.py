"""Which caption should a picture's rows stand for? Ask with text alone, before training towards it.

    python -m training.vision.wording [--pictures 48] [--caption "The shape is a {shape}. The color is {colour}."]

A caption can name {count}, {colour}, {noun} (the shape, in the plural where there are several), {place}, {they_are},
{article} and {shape}. Prints the share of right answers: the most that a picture can reach.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
import torch

from tercet.engine.models.store import resolve
from training.vision.caption import CAPTION, caption
from training.vision.evaluate import QUESTIONS, Answered, share_right
from training.vision.pictures import COLOURS, COUNTS, PLACES, SHAPES, Facts


def told(template: str, number: int, max_tokens: int = 12) -> list[Answered]:
    """Ask both questions about `number` pictures that are only told of, greedily, in the language model's own chat."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve("smollm2-135m").path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    every = [Facts(s, c, str(rng.choice(COUNTS)), str(rng.choice(list(PLACES)))) for s, c in product(SHAPES, COLOURS)]
    chosen = [every[i] for i in rng.permutation(len(every))[:number]]
    answered: list[Answered] = []
    for facts, (kind, question) in product(chosen, QUESTIONS.items()):
        message = {"role": "user", "content": f"{caption(facts, template)}\n{question}"}
        text = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
            )
        answered.append(Answered(facts, kind, tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))
    return answered


def main() -> None:
    """Print the shares for one caption."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caption", default=CAPTION)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    answered = told(options.caption, options.pictures)
    for kind, question in QUESTIONS.items():
        print(f"{question!r}: {share_right(answered, kind):.1%} of {options.pictures} right")
    for item in answered:
        if not item.right:
            print(f"  {item.kind}: {item.facts.colour} {item.facts.shape} -> {item.answer!r}")


if __name__ == "__main__":
    main()
