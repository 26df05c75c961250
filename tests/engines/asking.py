"""Questions to vLLM's workers and the router before them."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.e2e.conftest import Answer, Serve

EXTERNAL = "external_kv_transfer"
BY_SOURCE = "vllm:prompt_tokens_by_source_total"
HITS = "vllm:prefix_cache_hits_total"
EXPIRED = "vllm:nixl_num_kv_expired_reqs_total"
ANSWERED = "vllm:request_success_total"
BLOCK = 32
WORDS = "The tide comes in and the tide goes out and nobody on the shore has ever asked it why. " * 4


def fresh() -> str:
    """Return a prompt of some blocks that nobody has seen: it differs from its first token on."""
    return f"{secrets.token_hex(4)} {WORDS}"


def worker(serve: Serve, letter: str) -> str:
    """Return the URL of the worker with these stages: E, P, D or A."""
    wanted = {"E": {"encode"}, "P": {"prefill"}, "D": {"decode"}, "A": {"prefill", "decode"}}[letter]
    urls = [str(w["url"]) for w in serve.workers() if set(w["stages"]) - ({"encode"} - wanted) == wanted]
    assert len(urls) == 1, serve.workers()
    return urls[0]


def directly(serve: Serve, url: str) -> Serve:
    """Return what asks a worker past the router."""
    return Serve(url, serve.process, serve.log_dir)


def told(serve: Serve, prompt: str | list[int], tokens: int = 8, **headers: str) -> str:
    """Return the answer to a prompt."""
    return text_of(completed(serve, prompt, tokens, **headers))


def completed(serve: Serve, prompt: str | list[int], tokens: int = 8, **headers: str) -> Answer:
    """Return the whole answer to a prompt, a good one."""
    body = {"model": serve.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    answer = serve.complete(body, **headers)
    assert answer.status == 200, answer
    return answer


def text_of(answer: Answer) -> str:
    """Return the text of a completion."""
    return str(answer.body["choices"][0]["text"])


def chatted(serve: Serve, messages: list[dict[str, Any]]) -> Answer:
    """Return the whole answer to a chat, a good one."""
    answer = serve.chat({"messages": messages, "max_tokens": 8, "temperature": 0})
    assert answer.status == 200, answer
    return answer


def said(answer: Answer) -> str:
    """Return what a chat was answered."""
    return str(answer.body["choices"][0]["message"]["content"])


def route_of(answer: Answer) -> str:
    """Return the route of an answer: `P0>D1`."""
    return answer.headers["x-tercet-route"]


def server_process(url: str) -> psutil.Process:
    """Return the process of vLLM's server at this URL."""
    return next(process for process in psutil.process_iter() if _serves(process, url))


def _serves(process: psutil.Process, url: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "vllm.entrypoints.openai.api_server" in words and str(urlsplit(url).port) in words
