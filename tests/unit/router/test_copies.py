"""A request of 4 MiB, in the memory of a router that runs as it does in production."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# As read, as parsed, the hashes of its chunks (0.25), and in pd what P is sent: other fields around the same prompt.
# A picture's request is given up once it is parsed, and written anew when it is sent.
MOST = {("prompt", "aggregated"): 2.4, ("prompt", "pd"): 3.5, ("picture", "aggregated"): 2.6, ("picture", "pd"): 2.6}
# Once D answers nobody is sent the request again: the hashes are left, of which routing lives, and a picture's nothing.
STREAMING = {"prompt": 0.6, "picture": 0.05}


def test_a_long_request_is_copied_no_more_than_it_must_be() -> None:
    command = [sys.executable, "-m", "tests.unit.router.copies"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(case["what"], case["mode"]) for case in cases] == list(MOST)
    for case in cases:
        assert case["status"] == 200
        assert case["copies"] <= MOST[case["what"], case["mode"]], case
        assert case["streaming"] <= STREAMING[case["what"]], case
