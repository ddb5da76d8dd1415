"""What a client of a server reads of a stream: whole events, and errors of the class that their code names."""

from __future__ import annotations

from typing import Any

import pytest

from turnkeep.client import server_link
from turnkeep.errors import InboxFull, TurnkeepError

PIECES: list[dict[str, Any]] = [
    {"status": "processing", "epoch": "e", "offset": 4, "more": True, "delta": "a"},
    {"status": "processing", "epoch": "e", "offset": 4, "delta": "b"},
]
BEGUN = {"status": "subscribed", "recovered": True}


def stream() -> server_link._StreamReading:
    return server_link._StreamReading("e:3")


def test_frames_of_one_event_are_handed_on_together_and_move_the_position_once() -> None:
    read = stream()
    assert read.receive(PIECES[0]) == []
    assert read.position == "e:3"
    assert read.receive(PIECES[1]) == PIECES
    assert read.position == "e:4"


def test_half_an_event_is_forgotten_with_its_connection() -> None:
    read = stream()
    read.receive(PIECES[0])
    read.drop_event_frames()
    assert read.receive(PIECES[1]) == [PIECES[1]]


def test_a_subscription_is_told_when_it_begins_or_has_missed_something() -> None:
    read = stream()
    assert read.receive(BEGUN) == [BEGUN]
    assert read.receive(BEGUN) == []
    missed = BEGUN | {"recovered": False}
    assert read.receive(missed) == [missed]


def test_a_stream_ends_with_the_error_that_the_server_names() -> None:
    with pytest.raises(InboxFull, match="too many wait") as caught:
        stream().receive({"error": {"code": "inbox_full", "message": "too many wait", "retry_after": 2.0}})
    assert caught.value.retry_after == 2.0


def test_an_error_of_a_newer_server_is_an_error_all_the_same() -> None:
    error = server_link.error_of({"code": "not_known_yet"})
    assert (type(error), str(error)) == (TurnkeepError, "not_known_yet")


def test_a_channel_is_one_step_of_a_path() -> None:
    assert server_link.path_of("v1", "..", "a/b?c") == "/v1/%2E%2E/a%2Fb%3Fc"


def test_an_address_is_shown_without_its_password() -> None:
    assert server_link.without_password("https://user:secret@host:8/x") == "https://host:8/x"
