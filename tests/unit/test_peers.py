"""Whoever comes with a request finds room, however many come with none."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass

import pytest

from turnkeep.doors.lobby import LOBBY
from turnkeep.doors.peers import (
    DROPS,
    LONGEST,
    LOOK_AGAIN,
    REFUSAL_MEMORY,
    RESERVE,
    TOLD_EVERY,
    Peers,
    forwarded_in,
    peers_of,
    raise_descriptors,
)
from turnkeep.settings import Settings
from turnkeep.testing.fake_clock import FakeClock


@dataclass(eq=False)
class End:
    """A connection that can be dropped, and let in."""

    name: str
    dropped: bool = False
    admitted: bool = False
    works_in: Peers | None = None

    def admit(self) -> None:
        self.admitted = True
        if self.works_in is not None:
            self.works_in.work(self)

    def drop(self) -> None:
        self.dropped = True


def entered(peers: Peers, *names: str, host: str = "10.0.0.1") -> list[End]:
    """They come, and ask where they have to."""
    ends = [End(name) for name in names]
    assert all(peers.enter(end, host) == "inside" or peers.ask(end, host) for end in ends)
    return ends


async def asked(peers: Peers, *names: str, host: str = "10.0.0.1") -> list[End]:
    """The same, whether there is room or not."""
    ends = [End(name) for name in names]
    for end in ends:
        assert peers.enter(end, host) == "lobby"
        if peers.ask(end, host):
            end.admit()
    return ends


async def until_looked(peers: Peers) -> None:
    """The next look at the lobby, by its timer."""
    handles = [0]
    asyncio.get_running_loop().call_later(2 * LOOK_AGAIN, handles.pop)
    while handles:
        await asyncio.sleep(LOOK_AGAIN)


def test_the_one_that_has_waited_longest_makes_room() -> None:
    peers = Peers(3)
    first, second, third = entered(peers, "first", "second", "third")
    peers.work(first)
    [fourth] = entered(peers, "fourth")
    assert (first.dropped, second.dropped, third.dropped, fourth.dropped) == (False, True, False, False)
    peers.wait(first)
    entered(peers, "fifth")
    assert (third.dropped, first.dropped) == (True, False), "the first began to wait after the third"
    assert len(peers) == 3


def test_nobody_has_to_go_for_one_that_asks_for_nothing() -> None:
    peers = Peers(2)
    ends = entered(peers, "first", "second")
    assert peers.enter(End("third"), "10.0.0.2") == "lobby"
    assert not any(end.dropped for end in ends)


async def test_an_address_makes_room_so_often_in_a_second_and_waits_then_and_another_does_not() -> None:
    clock = FakeClock()
    peers = Peers(4, clock=clock)
    entered(peers, *"abcd")
    many = await asked(peers, *[str(number) for number in range(2 * DROPS)])
    assert sum(one.admitted for one in many) == DROPS
    [other] = await asked(peers, "other", host="10.0.0.2")
    assert other.admitted
    clock.advance(0.5)
    await until_looked(peers)
    assert [one.admitted for one in many] == [True] * (DROPS + DROPS // 2) + [False] * (DROPS // 2), "in their order"
    assert not other.dropped
    for end in many:
        peers.leave(end)
    assert len(peers) == 1


async def test_whoever_waits_in_the_lobby_comes_in_when_somebody_leaves_an_address_after_the_other() -> None:
    peers = Peers(2, clock=FakeClock())
    inside = entered(peers, "a", "b")
    for end in inside:
        peers.work(end)
    many = await asked(peers, *"cdef")
    [other] = await asked(peers, "other", host="10.0.0.2")
    for end in (*many, other):
        end.works_in = peers
    for end in inside:
        peers.leave(end)
    await until_looked(peers)
    assert [end.admitted for end in (*many, other)] == [True, False, False, False, True]


class BrokenEnd(End):
    def admit(self) -> None:
        raise OSError("what it said cannot be read")


async def test_whoever_breaks_when_he_is_let_in_keeps_nobody_else_in_the_lobby() -> None:
    peers = Peers(2, lobby=2, clock=FakeClock())
    inside = entered(peers, "a", "b")
    for one in inside:
        peers.work(one)
    ends = [BrokenEnd("broken"), End("other")]
    for end in ends:
        assert peers.enter(end, "10.0.0.1") == "lobby"
        assert not peers.ask(end, "10.0.0.1")
    for one in inside:
        peers.leave(one)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    await until_looked(peers)
    await until_looked(peers)
    assert ends[1].admitted
    assert [type(one) for one in told] == [OSError], "it is told once"


async def test_whoever_was_answered_in_the_lobby_is_counted_there_and_let_in_no_more() -> None:
    peers = Peers(1, lobby=2, clock=FakeClock())
    [inside] = entered(peers, "a")
    peers.work(inside)
    refused, other = await asked(peers, "refused", "other")
    other.works_in = peers
    peers.withdraw(refused)
    peers.withdraw(inside)
    assert peers.enter(End("late"), "10.0.0.2") == "lobby"
    assert refused.dropped, "it has its place, and gives it to whoever comes next"
    peers.leave(inside)
    await until_looked(peers)
    assert [end.admitted for end in (refused, other)] == [False, True]


async def test_a_full_lobby_turns_out_the_one_of_the_busiest_address_that_has_been_there_longest() -> None:
    peers = Peers(1, lobby=3, clock=FakeClock())
    peers.work(entered(peers, "a")[0])
    [alone] = await asked(peers, "alone", host="10.0.0.2")
    many = await asked(peers, *[str(number) for number in range(100)])
    assert not alone.dropped
    assert [end.dropped for end in many] == [True] * 98 + [False] * 2
    assert Peers(1, lobby=0).enter(End("x"), "h") == "inside"
    nowhere = Peers(1, lobby=0)
    entered(nowhere, "a")
    assert nowhere.enter(End("b"), "10.0.0.2") == "nowhere"


async def test_whoever_waits_alone_is_not_made_to_go_for_the_many_of_another_address() -> None:
    """They come back at once, a thousand between two looks at the one that has just come."""
    peers = Peers(4, clock=FakeClock())
    [alone] = entered(peers, "alone", host="10.0.0.2")
    entered(peers, *"abc")
    many = await asked(peers, *[str(number) for number in range(500)])
    assert not alone.dropped
    assert sum(one.dropped for one in many) == DROPS - 3
    [neighbour] = await asked(peers, "neighbour", host="10.0.0.2")
    assert neighbour.admitted
    assert not alone.dropped


async def test_nobody_who_is_at_work_has_to_go() -> None:
    peers = Peers(2)
    for end in entered(peers, "first", "second"):
        peers.work(end)
    [late] = await asked(peers, "late", host="10.0.0.2")
    assert not late.admitted
    assert len(peers) == 2


@pytest.mark.parametrize(
    ("host", "said", "whose"),
    [
        ("10.9.1.1", [b"198.51.100.7"], "198.51.100.7"), ("10.9.1.1", [b"1.2.3.4, 198.51.100.7"], "198.51.100.7"),
        ("10.9.1.1", [b"1.2.3.4", b" 198.51.100.7 , 10.9.2.2"], "198.51.100.7"), ("10.9.1.1", [], "10.9.1.1"),
        ("10.9.1.1", [b""], "10.9.1.1"), ("10.9.1.1", [b"x" * 500], "x" * LONGEST),
        ("10.9.1.1", [b"10.9.3.3"], "10.9.3.3"), ("10.0.0.1", [b"198.51.100.7"], "10.0.0.1"),
        ("", [b"198.51.100.7"], ""), ("127.0.0.1", [b"1.2.3.4"], "127.0.0.1"),
    ],
)  # fmt: skip
def test_a_request_is_of_the_address_that_a_trusted_proxy_names(host: str, said: list[bytes], whose: str) -> None:
    assert Peers(1, proxies=["10.9.0.0/16"]).sender(host, said) == whose


def test_the_address_is_read_from_the_head_alone() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nx-forwarded-FOR: 1.1.1.1\r\nX-Forwarded-For:2.2.2.2\r\n\r\n"
    assert forwarded_in(head + b"\r\nX-Forwarded-For: 3.3.3.3\r\n\r\n") == [b" 1.1.1.1", b"2.2.2.2"]


async def test_behind_a_proxy_the_busiest_of_those_that_it_names_makes_room() -> None:
    peers = Peers(4, proxies=["10.9.0.0/16"], clock=FakeClock())
    ends = entered(peers, *"abcd", host="10.9.0.1")
    for end, host in zip(ends, ("1.1.1.1", "2.2.2.2", "2.2.2.2", "2.2.2.2"), strict=True):
        peers.name(end, host)
    for number in range(3 * DROPS):
        end = End(str(number))
        peers.enter(end, "10.9.0.1")
        peers.ask(end, "2.2.2.2")
    assert [end.dropped for end in ends] == [False, True, True, True]
    late = End("late")
    assert peers.enter(late, "10.9.0.1") == "lobby"
    assert peers.ask(late, "3.3.3.3"), "the many of one address behind the proxy cost another nothing"


def test_one_address_has_no_more_than_its_share() -> None:
    """`connections_per_peer`; proxies come for many."""
    peers = Peers(100, 2, proxies=["10.9.0.0/16"])
    for host in ("10.0.0.1", "2001:db8::1"):
        [one, _] = entered(peers, "a", "b", host=host)
        assert peers.enter(End("c"), host) == "nowhere"
        peers.leave(one)
        entered(peers, "c", host=host)
    for host in ("127.0.0.1", "::1", "", "10.9.3.4"):
        entered(peers, *"abcd", host=host)


def test_leaving_twice_or_unheard_counts_once() -> None:
    peers = Peers(1, 1)
    [one] = entered(peers, "one")
    peers.leave(one)
    peers.leave(one)
    peers.leave(End("stranger"))
    peers.wait(one)
    entered(peers, "two")
    assert len(peers) == 1


def test_want_of_room_is_told_now_and_then_and_remembered_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    peers = Peers(1, clock=clock)
    assert not peers.were_full
    entered(peers, *[str(number) for number in range(DROPS)])
    assert peers.were_full
    clock.advance(TOLD_EVERY)
    entered(peers, "later")
    clock.advance(REFUSAL_MEMORY)
    assert not peers.were_full


def test_descriptors_are_raised_and_some_are_left_for_others() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        raised = raise_descriptors()
        assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raised is not None
        assert raised > 256 or raised == before[1]
        room = max(raised - RESERVE, raised // 2)
        assert peers_of(Settings.load(max_connections=0)).most == room - min(LOBBY, room // 8)
        assert peers_of(Settings.load(max_connections=7)).most == 7
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
