from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.text.stops import StopStrings


def run(stops: list[str], pushes: list[str]) -> tuple[str, str | None]:
    watcher = StopStrings(stops)
    out = ""
    for text in pushes:
        safe, matched = watcher.push(text)
        out += safe
        if matched is not None:
            assert watcher.matched == matched
            return out, matched
    return out + watcher.flush(), None


def character_by_character(stops: list[str], text: str) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    stops=st.lists(st.text("ab", max_size=4), max_size=3),
    pushes=st.lists(st.text("ab", max_size=4), max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_equals_reading_character_by_character(stops: list[str], pushes: list[str]) -> None:
    assert run(stops, pushes) == character_by_character(stops, "".join(pushes))


@given(stop=st.text("ab", min_size=1, max_size=4), pushes=st.lists(st.text("abc", max_size=3), max_size=8))
@settings(max_examples=200, deadline=None)
def test_holds_back_only_the_beginning_of_a_stop(stop: str, pushes: list[str]) -> None:
    watcher = StopStrings([stop])
    seen = out = ""
    for text in pushes:
        seen += text
        safe, matched = watcher.push(text)
        out += safe
        if matched:
            return
        held = seen[len(out) :]
        assert stop.startswith(held) and len(held) < len(stop)


def test_a_stop_over_three_tokens() -> None:
    watcher = StopStrings(["\n\nUser:"])
    assert watcher.push("Hello.\n") == ("Hello.", None)
    assert watcher.push("\nUs") == ("", None)
    assert watcher.push("er: and more") == ("", "\n\nUser:")
    assert watcher.push("nothing") == ("", "\n\nUser:")
    assert watcher.flush() == ""


def test_without_stops_text_passes() -> None:
    assert StopStrings().push("text") == ("text", None)
