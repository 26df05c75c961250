"""Real arithmetic in fp32: the tokens of transformers, wherever pictures are encoded and however they travel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tercet.core.image_ticket import ImageTicket
from tercet.core.ticket import Ticket
from tercet.engine.models.random_model import random_model_folder
from tests.integration.worker.seeing import config, encode, generate, image_stats, pixels_of, prompt, running, settles

COUNT = 8
PROMPTS = {pictures: tuple(f"picture {i * pictures % 7}" for i in range(pictures)) for pictures in (1, 3, 8)}
TRANSPORTS = ("shm", "tcp")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[int]]]:
    """Return a tiny LLaVA as transformers saves it, and what transformers answers to each prompt."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    base = tmp_path_factory.mktemp("llava")
    shape = json.loads((random_model_folder("tiny-llava", base / "cache").path / "config.json").read_text())
    shape["text_config"]["initializer_range"] = 0.3  # peaked logits: greedy choices that rounding can't flip
    folder = base / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape))
    torch.manual_seed(3)
    llava = LlavaForConditionalGeneration._from_config(AutoConfig.from_pretrained(folder)).eval()
    for name, parameter in llava.named_parameters():
        if "multi_modal_projector" in name and parameter.dim() == 2:  # rows as large as the tokens' own
            torch.nn.init.normal_(parameter, std=0.6)
    llava.save_pretrained(folder)
    answers: dict[int, list[int]] = {}
    for pictures, names in PROMPTS.items():
        ids = torch.tensor([prompt(names)["tokens"]])
        with torch.inference_mode():
            out = llava.generate(
                input_ids=ids,
                pixel_values=torch.stack([torch.from_numpy(pixels_of(name)) for name in names]),
                attention_mask=torch.ones_like(ids),
                max_new_tokens=COUNT,
                min_new_tokens=COUNT,
                do_sample=False,
                eos_token_id=None,
            )
        answers[pictures] = out[0, ids.shape[1] :].tolist()
    return folder, answers


def only(transport: str, tickets: Iterable[ImageTicket]) -> list[ImageTicket]:
    """Offer one transport alone."""
    return [replace(ticket, addresses={transport: ticket.addresses[transport]}) for ticket in tickets]


@pytest.mark.slow
async def test_every_way_gives_the_tokens_of_transformers(model: tuple[Path, dict[int, list[int]]]) -> None:
    folder, want = model
    real = {"engine": "tercet", "gpu": None, "random_weights": False, "vocab_size": 320, "max_num_batched_tokens": 50}
    stages = (("encode", "prefill", "decode"), ("encode",), ("prefill",), ("decode",))
    async with running(*(config(folder, *each, **real) for each in stages)) as (whole, encoder, prefill, decode):
        for pictures, names in PROMPTS.items():
            local = await asyncio.gather(*(encode(whole, name) for name in names))
            sink = await generate(whole, **prompt(names, [answer.ticket for answer in local]), count=COUNT)
            assert sink.tokens == want[pictures], "encoded and computed in one engine"
            for transport in TRANSPORTS:
                salt = f"{transport} {pictures}"
                answers = await asyncio.gather(*(encode(encoder, name, 2) for name in names))
                tickets = only(transport, [answer.ticket for answer in answers])
                held = await generate(prefill, **prompt(names, tickets), hold=True, salt=salt)
                ticket: Ticket = replace(held.ticket, addresses={transport: held.ticket.addresses[transport]})
                sink = await generate(decode, ticket=ticket, count=COUNT, salt=salt)
                assert sink.tokens == want[pictures], f"{pictures} pictures by {transport}"
                assert sink.deltas[0].origin is not None and not sink.deltas[0].origin.recomputed
                # D computes the prompt itself, reading the pictures from the encoder.
                tickets = only(transport, [(await encode(encoder, name)).ticket for name in names])
                sink = await generate(decode, **prompt(names, tickets), count=COUNT, salt=f"{salt} again")
                assert sink.tokens == want[pictures]
                assert await whole.reset_cache() and await prefill.reset_cache() and await decode.reset_cache()
        distinct = len({name for names in PROMPTS.values() for name in names})
        await settles(encoder, encoded=distinct, held=0)
        assert image_stats(whole)["encoded"] >= distinct
