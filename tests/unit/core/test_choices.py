from __future__ import annotations

from typing import Any

import pytest

from tercet.core.choices import tries_several, wants_several


@pytest.mark.parametrize("one", [None, 1, 1.0, True])
def test_one_answer(one: Any) -> None:
    assert not wants_several({"n": one}) and not tries_several({"n": one, "best_of": one})
    assert not wants_several({}) and not tries_several({})


@pytest.mark.parametrize("other", [0, False, 2, 1.5, -1, "", "1", [], {}])
def test_what_is_not_one_is_several(other: Any) -> None:
    assert wants_several({"n": other}) and tries_several({"n": other})
    assert not wants_several({"best_of": other}) and tries_several({"n": 1, "best_of": other})
