from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from tercet.core.errors import UsageError
from tercet.core.stage import Stage
from tercet.engine.models.store import random_model_folder
from tercet.router.config import RouterConfig
from tercet.worker.config import WorkerConfig
from tercet.worker.front import load_pictures, max_model_len
from tests.unit.test_floors import run_python

WITHOUT = """
import sys
sys.modules["PIL"] = sys.modules["urllib3"] = None
from tercet.core.errors import MissingExtraError
from tercet.core.stage import Stage
from tercet.engine.models.store import random_model_folder
from tercet.worker.config import WorkerConfig
from tercet.worker.front import load_pictures
folder = random_model_folder("tiny-llava")
assert load_pictures(WorkerConfig(), folder) is None
try:
    load_pictures(WorkerConfig(stages=frozenset({Stage.ENCODE})), folder)
except MissingExtraError as error:
    print(error)
"""


def test_only_a_worker_that_encodes_needs_the_libraries_for_it() -> None:
    assert run_python(WITHOUT) == "the encode stage needs an optional part: pip install 'tercet[vision]'"


def test_a_model_that_does_not_see_can_not_encode() -> None:
    with pytest.raises(UsageError, match="takes text only"):
        load_pictures(WorkerConfig(stages=frozenset(Stage)), random_model_folder("tiny"))


def test_the_language_models_positions_bound_a_sequence() -> None:
    folder = random_model_folder("tiny-llava")
    assert max_model_len(WorkerConfig(max_model_len=100_000), folder) == 8192
    assert max_model_len(WorkerConfig(max_model_len=100), folder) == 100


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": ""}, "--host '' would listen on every address"),
        ({"kv_blocks": -1}, "--kv-blocks can't be negative"),
        ({"lease_s": 0}, "--lease must be more than 0 seconds, not 0"),
        ({"lease_s": math.nan}, "--lease must be more than 0 seconds, not nan"),
        ({"media_timeout_s": math.inf}, "--media-timeout must be more than 0 seconds, not inf"),
        ({"engine": "virtual", "gpu": "h1000"}, "unknown --gpu 'h1000': known are a100, h100, h200"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        WorkerConfig(**settings)


def test_what_a_router_lets_through_a_worker_takes_with_a_ticket_beside_it() -> None:
    defaults: dict[str, Any] = {field.name: field.default for field in fields(RouterConfig)}
    assert WorkerConfig().max_body_bytes >= defaults["max_body_bytes"] + (1 << 20)


@pytest.mark.parametrize("setting", ["max_images", "max_image_bytes", "max_image_pixels"])
def test_limits_of_nothing_are_refused(setting: str) -> None:
    nothing: dict[str, Any] = {setting: 0}
    with pytest.raises(UsageError, match=f"--{setting.replace('_', '-')} must be at least 1"):
        WorkerConfig(**nothing)
    with pytest.raises(UsageError, match="--media-timeout"):
        WorkerConfig(media_timeout_s=0)
