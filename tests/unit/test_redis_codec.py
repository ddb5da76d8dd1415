"""What is written into Redis reads back the same, and damage never does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeep.errors import ThreadQuarantined
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, AssistantItem, Message, Part, UserItem, text_content
from turnkeep.store.redis import codec
from turnkeep.store.values import HeldCall, TranscriptEntry
from turnkeep.usage import Usage

HERE = Address("t", "q", "c")
ABOUT = {"uid": 1, "seq": 3, "arrival": 1700000000.123456, "window": 1.5, "max_wait": 8, "on_busy": "collect"}

text = st.text(st.characters(), max_size=60)
"""With newlines, NUL and lone surrogates."""
plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 70), 1 << 70),
        st.floats(allow_nan=False, allow_infinity=False),
        text,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=8,
)


@given(value=plain)
def test_any_json_reads_back(value: Any) -> None:
    written = codec.dump(value)

    assert codec.parse(written) == value
    assert b"\n" not in written


@given(words=text, instructions=st.none() | text, metadata=st.dictionaries(text, text, max_size=2))
def test_a_message_reads_back_with_what_counted_for_it(
    words: str, instructions: str | None, metadata: dict[str, str]
) -> None:
    content = (Part("text", words), Part("image", data={"url": words}))
    message = Message(HERE, "m1", content, instructions=instructions, metadata=metadata, minted=True)

    read = codec.read_message(HERE, ABOUT, codec.body(message))

    assert read == message.but(seq=3, arrival=1700000000.123456, window=1.5, max_wait=8.0, on_busy="collect")


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_message_goes_unseen(place: int, bit: int) -> None:
    body = bytearray(codec.body(Message(HERE, "m1", text_content("words"), metadata={"a": "b"})))
    body[place % len(body)] ^= 1 << bit

    with pytest.raises(ThreadQuarantined):
        codec.read_message(HERE, ABOUT, bytes(body))


@given(length=st.integers(0, 200))
def test_no_cut_off_message_goes_unseen(length: int) -> None:
    body = codec.body(Message(HERE, "m1", text_content("words")))

    if length < len(body):
        with pytest.raises(ThreadQuarantined):
            codec.read_message(HERE, ABOUT, body[:length])


@given(words=text)
def test_a_turn_reads_back(words: str) -> None:
    entries = [TranscriptEntry(UserItem(text_content(words), "m1"), 3), TranscriptEntry(AssistantItem(words), 5)]

    read = codec.read_turn(b"7 1700000000.25 " + codec.turn_argument(entries))

    assert read == [TranscriptEntry(e.item, e.tokens, 7, 1700000000.25) for e in entries]


@given(words=text)
def test_a_call_reads_back(words: str) -> None:
    call = HeldCall("call_1", words, words, "d", decision="output", output=words, by=words)
    call_id, digest, decision, base, output, by = codec.call_row(call)

    told = b"{" + base + b',"decision":"' + decision + b'","output":' + output + b',"by":' + by + b"}"

    assert (call_id, digest) == (b"call_1", b"d")
    assert codec.read_calls([codec.parse(told)]) == (call,)


def test_an_empty_turn_is_nothing() -> None:
    assert codec.turn_argument([]) == b""


events = st.builds(
    Event,
    kind=st.sampled_from(["delta", "snapshot", "processing", "waiting", "completed"]),
    text=text,
    run_id=st.none() | st.just("run_1"),
    attempt=st.integers(0, 3),
    message_ids=st.lists(text, max_size=2).map(tuple),
    error=st.none() | st.builds(TurnFault, text, text),
    usage=st.none() | st.just(Usage(input_tokens=3)),
)


@given(told=st.lists(events, max_size=4))
def test_events_read_back_from_what_followers_are_told(told: list[Event]) -> None:
    frames = b""
    for offset, event in enumerate(told, 5):
        kind, members, words = codec.event_row(event)
        frame = b"%d %s 1700000000.25 %d %d\n" % (offset, kind, len(members), len(words)) + members + words
        assert b"%d" % offset + codec.event_frame(event, b"1700000000.25") == frame
        frames += frame

    read = codec.read_frames(frames, "e")

    expected = [event.at_position(offset, "e", 1700000000.25) for offset, event in enumerate(told, 5)]
    assert read == expected


def test_a_new_server_changes_the_epoch() -> None:
    assert codec.epoch_of(b"abc", 0) == "abc"
    assert codec.epoch_of(b"abc", 2) == "abc.2"
