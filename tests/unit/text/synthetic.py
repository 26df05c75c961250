"""Small tokenisers of every family that Llama-like models use, trained on the spot, and model folders around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "What is the capital of France? The capital of France is Paris.",
    "One two three four five; héllo wörld, naïve café, 12 + 34 = 46.",
    "    indented text\n\nwith lines\tand tabs  and  runs   of spaces",
] * 4

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
FAMILIES = ("byte_level", "llama", "gemma", "metaspace", "unigram", "plain_words")


def build(family: str) -> Tokenizer:
    """Return a trained tokeniser of one of FAMILIES."""
    if family == "byte_level":  # GPT-2, Llama 3, Qwen, SmolLM
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(
            CORPUS,
            trainers.BpeTrainer(
                vocab_size=500,
                special_tokens=SPECIALS,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
    elif family == "plain_words":  # a test model's tokeniser, without a decoder
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False))
    elif family == "unigram":  # sentencepiece unigram
        # Written out: the trainer's result differs from run to run.
        text = "".join(CORPUS).replace(" ", "▁")
        words = sorted({f"▁{word}" for line in CORPUS for word in line.split()} - set(text))
        vocab = [(piece, 0.0) for piece in SPECIALS + BYTE_TOKENS]
        vocab += [(char, -8.0) for char in sorted({*text, "▁"})] + [(word, -6.0) for word in words]
        tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    else:  # sentencepiece BPE with byte fallback
        trained = Tokenizer(models.BPE(unk_token="<unk>"))
        trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
        special = SPECIALS + BYTE_TOKENS
        trained.train_from_iterator(
            CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
        )
        model = json.loads(trained.to_str())["model"]
        merges = [(left, right) for left, right in model["merges"]]
        tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
        space = decoders.Replace("▁", " ")
        if family == "llama":  # Llama 2, Mistral, Phi-3
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            tokenizer.decoder = decoders.Sequence(
                [space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
            )
        elif family == "gemma":
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
            tokenizer.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse()])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            tokenizer.decoder = decoders.Sequence(
                [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)]
            )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", token_id(tokenizer, "<s>"))]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that is there."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return int(found)


def write_folder(folder: Path, tokenizer: Tokenizer, **files: Any) -> Path:
    """Write a model folder: tokenizer.json and `files` (`name_json={...}` becomes name.json, `name_jinja` text)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        stem, _, kind = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{kind}").write_text(text, encoding="utf-8")
    return folder
