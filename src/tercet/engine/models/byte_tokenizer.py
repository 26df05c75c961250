"""A tokeniser for models without one: a token a byte, and filler tokens up to any vocabulary size."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = {"pad_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
"""Ids 0, 1 and 2, in this order; the 256 bytes follow."""

MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256

IMAGE_TOKEN = "<image>"
"""Where a picture stands in a rendered chat; the model sees it as many times as the picture has tokens."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '\n' if not loop.first }}{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_byte_tokenizer(folder: Path, vocab_size: int, image_token_id: int | None = None) -> None:
    """Write tokenizer.json, its settings, generation_config.json and a ChatML-like template into `folder`.

    `vocab_size` is at least MIN_VOCAB_SIZE; `image_token_id`, one of the fillers, becomes IMAGE_TOKEN. Ids
    above the bytes never come out of a text, but a model with random weights samples them: each decodes to a word of
    its own, so that every token of an answer is visible.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL_TOKENS.values(), *alphabet]
    names += [f"Ġw{i}" for i in range(len(names), vocab_size)]
    special = list(SPECIAL_TOKENS.values())
    if image_token_id is not None:
        names[image_token_id] = IMAGE_TOKEN
        special.append(IMAGE_TOKEN)
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {**SPECIAL_TOKENS, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(special_ids(), indent=1), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def special_ids() -> dict[str, int]:
    """Return pad_token_id, bos_token_id and eos_token_id, as configurations name them."""
    return {f"{name}_id": i for i, name in enumerate(SPECIAL_TOKENS)}
