"""The framer reads every stream as the standard says, wherever the network cuts it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.late_import import late_import
from tests.rows import each_row
from turnkeep.errors import AnswerMalformed
from turnkeep.models.reading import Framer, StreamEvent

openai = late_import("openai")  # takes a second to load

STREAMS = sorted((Path(__file__).parents[1] / "data" / "streams").glob("*.sse"))


def framed(chunks: Iterable[bytes], limit: int = 1_000_000) -> list[StreamEvent]:
    framer = Framer(limit)
    return [frame for chunk in chunks for frame in framer.push(chunk)]


def by_the_standard(stream: bytes) -> list[StreamEvent]:
    """The standard's own algorithm, line by line: slow, plain, and written apart from the framer."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    frames: list[StreamEvent] = []
    name, data = b"", b""
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                frames.append((name, data[:-1]))
            name, data = b"", b""
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"data":
                data += value + b"\n"
            elif field == b"event":
                name = value
    return frames


def by_the_sdk(stream: bytes) -> list[StreamEvent]:
    """What the official client makes of a stream; it also yields events without data, which the standard drops."""
    events = openai._streaming.SSEDecoder().iter_bytes(iter([stream]))
    return [((event.event or "").encode(), event.data.encode()) for event in events if event.data]


def cuts(stream: bytes, places: Iterable[int]) -> Iterator[bytes]:
    last = 0
    for place in sorted(places):
        yield stream[last:place]
        last = place
    yield stream[last:]


# ---------------------------------------------------------------- the standard

LINES = st.one_of(
    st.sampled_from(["", "", "data", "data:", "event:", "id", ": ping", ":", "retry: 10", "retry: x", "data: [DONE]"]),
    st.builds("data: {}".format, st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))),
    st.builds("{}:{}".format, st.sampled_from(["data", "event", "id", "other"]), st.sampled_from([" a", "b", "  c"])),
)
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.tuples(LINES, ENDS), max_size=30))
    return "".join(line + end for line, end in lines).encode() + draw(st.sampled_from([b"", b"data: cut off"]))


@given(streams(), st.data())
def test_any_stream_cut_anywhere_gives_what_the_standard_and_the_official_client_say(
    stream: bytes, data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    frames = framed(cuts(stream, places))
    assert frames == by_the_standard(stream)
    assert [frame for frame in frames if frame[1]] == by_the_sdk(stream)


@given(streams())
def test_one_byte_at_a_time_is_the_same_as_all_at_once(stream: bytes) -> None:
    assert framed(stream[i : i + 1] for i in range(len(stream))) == framed([stream])


@given(streams(), st.integers(0, 4))
def test_a_byte_order_mark_at_the_start_is_skipped_also_when_it_is_cut(stream: bytes, place: int) -> None:
    marked = b"\xef\xbb\xbf" + stream
    assert framed([marked[:place], marked[place:]]) == by_the_standard(stream)


def test_a_comment_alone_gives_no_frame() -> None:
    assert framed([b": ping\n\n", b":\r\n\r\n", b"\n\n\n"]) == []


# ---------------------------------------------------------------- recorded streams


def test_there_are_recorded_streams() -> None:
    assert len(STREAMS) >= 6


@pytest.mark.slow  # thousands of streams
@each_row("path", STREAMS, ids=lambda path: path.stem)
def test_a_recorded_stream_cut_at_every_byte_gives_the_same_frames(path: Path, size: Callable[[int, int], int]) -> None:
    stream = path.read_bytes()
    whole = by_the_sdk(stream)
    assert whole
    for place in range(0, len(stream) + 1, size(3, 1)):
        assert framed([stream[:place], stream[place:]]) == whole


@each_row("path", STREAMS, ids=lambda path: path.stem)
@each_row("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_recorded_stream_reads_the_same_with_every_line_end(path: Path, end: bytes) -> None:
    plain = path.read_bytes().replace(b"\r\n", b"\n")
    stream = plain.replace(b"\n", end)
    assert framed(stream[i : i + 7] for i in range(0, len(stream), 7)) == by_the_standard(plain)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_an_event_of_the_limit_passes_and_one_byte_more_does_not(step: int) -> None:
    def stream(size: int) -> list[bytes]:
        whole = b"data: a\n\ndata: " + b"x" * (size - 6) + b"\n\ndata: b\n\n"
        return [whole[i : i + step] for i in range(0, len(whole), step)]

    assert len(framed(stream(100), limit=100)) == 3
    with pytest.raises(AnswerMalformed, match="larger than 100 bytes"):
        framed(stream(101), limit=100)


def test_an_event_that_never_ends_is_given_up_at_the_limit() -> None:
    framer = Framer(limit=1000)
    assert framer.push(b"data: " + b"x" * 900) == []
    with pytest.raises(AnswerMalformed):
        framer.push(b"x" * 200)


def test_a_large_event_in_many_small_reads_is_joined_once() -> None:
    """Kept pieces are not copied again at every read: a thousand reads join a thousand pieces, not half a million."""
    framer = Framer()
    for _ in range(1000):
        assert framer.push(b"x" * 1000) == []
        assert all(len(piece) == 1000 for piece in framer._pending)
    assert framer.push(b"\n\n") == []  # no field of that name
