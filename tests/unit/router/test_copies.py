"""A request of 4 MiB, and many streams, in the memory of a router that runs as it does in production."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# As read, as parsed, and the hashes of its chunks (0.25): P and D are sent other fields around what was read.
# A picture's request is given up once it is parsed, and written anew when it is sent.
MOST = {("prompt", "aggregated"): 2.4, ("prompt", "pd"): 2.4, ("picture", "aggregated"): 2.6, ("picture", "pd"): 2.6}
# Once D answers nobody is sent the request again: the hashes are left, of which routing lives, and a picture's nothing.
STREAMING = {"prompt": 0.3, "picture": 0.05}
# Of a prompt of 10 KB: its hashes are 2 KB, two connections and what is known of the request the rest. What D was sent
# is not there any more, nor is the ticket, 10 KB too.
MOST_OF_A_STREAM = 17_000


def test_a_long_request_is_copied_no_more_than_it_must_be_and_a_stream_keeps_little() -> None:
    command = [sys.executable, "-m", "tests.unit.router.copies"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    streams = {case["mode"]: case["bytes"] for case in cases if case["what"] == "streams"}
    assert streams.keys() == {"aggregated", "pd"}
    assert max(streams.values()) <= MOST_OF_A_STREAM, streams
    cases = [case for case in cases if case["what"] != "streams"]
    assert [(case["what"], case["mode"]) for case in cases] == list(MOST)
    for case in cases:
        assert case["status"] == 200
        assert case["copies"] <= MOST[case["what"], case["mode"]], case
        assert case["streaming"] <= STREAMING[case["what"]], case
