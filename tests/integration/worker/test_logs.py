from __future__ import annotations

import re

from tests.integration.worker.processes import Worker

MARK = "xyzzy-of-the-prompt"


def test_no_prompt_is_in_a_workers_log(virtual: Worker) -> None:
    body = {"prompt": MARK, "max_tokens": 2}
    assert virtual.call("/v1/completions", body).status == 200
    for wrong in ({"max_tokens": "x"}, {"temperature": MARK}, {"stop": [MARK] * 99}, {"model": MARK}, {"n": -1}):
        assert virtual.call("/v1/completions", {**body, **wrong}).status in (400, 404)
    assert virtual.call("/v1/chat/completions", {"messages": [{"role": MARK, "content": MARK}]}).status < 500
    virtual.open({**body, "max_tokens": 500}).close()
    text = virtual.log.read_text()
    assert re.search("listens on", text) and MARK not in text
