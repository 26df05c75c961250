from __future__ import annotations

import pytest

from tercet.http.wire import chunk, end_to_end, has_body, request_head, response_head


def test_heads() -> None:
    assert response_head(200, [("A", "b")]) == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert response_head(499, []).startswith(b"HTTP/1.1 499 ")
    assert request_head("GET", "/a?b", [("Host", "h")]) == b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\rb", "a\0b"])
def test_no_part_of_a_head_can_split_it(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        response_head(200, [("X", value)])
    with pytest.raises(ValueError, match="line break"):
        response_head(200, [(value, "x")])
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", value, [])
    with pytest.raises(ValueError, match="space"):
        request_head("GET", "/ HTTP/1.1", [])


def test_chunk() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_which_answers_have_a_body() -> None:
    assert has_body("GET", 200) and has_body("POST", 500)
    assert not any((has_body("HEAD", 200), has_body("GET", 204), has_body("GET", 304), has_body("GET", 101)))


def test_hop_by_hop_headers_stay_here() -> None:
    headers = {
        "connection": "keep-alive, X-Hop",
        "x-hop": "1",
        "transfer-encoding": "chunked",
        "content-length": "3",
        "x-kept": "1",
    }
    assert end_to_end(headers) == [("x-kept", "1")]
