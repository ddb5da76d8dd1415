"""Whoever comes with a request finds room, however many come with none."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import pytest

from turnkeep.doors.peers import REMEMBERED, RESERVE, TOLD_EVERY, Peers, peers_of, raise_descriptors
from turnkeep.settings import Settings
from turnkeep.testing.clock import FakeClock


@dataclass(eq=False)
class End:
    """A connection that can be dropped."""

    name: str
    dropped: bool = False

    def drop(self) -> None:
        self.dropped = True


def entered(peers: Peers, *names: str, host: str = "10.0.0.1") -> list[End]:
    ends = [End(name) for name in names]
    assert [peers.enter(end, host) for end in ends] == [True] * len(ends)
    return ends


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


def test_whoever_waits_alone_is_not_made_to_go_for_the_many_of_another_address() -> None:
    """They come back at once, a thousand between two looks at the one that has just come."""
    peers = Peers(4)
    [alone] = entered(peers, "alone", host="10.0.0.2")
    many = entered(peers, *[str(number) for number in range(1_000)])
    assert not alone.dropped
    assert sum(one.dropped for one in many) == 997
    entered(peers, "neighbour", host="10.0.0.2")
    assert sum(one.dropped for one in many) == 998


def test_nobody_who_is_at_work_has_to_go() -> None:
    peers = Peers(2)
    for end in entered(peers, "first", "second"):
        peers.work(end)
    late = End("late")
    assert not peers.enter(late, "10.0.0.2")
    assert len(peers) == 2


def test_one_address_has_no_more_than_its_share() -> None:
    """`connections_per_peer`; proxies come for many."""
    peers = Peers(100, 2, trusted=["10.9.0.0/16"])
    for host in ("10.0.0.1", "2001:db8::1"):
        [one, _] = entered(peers, "a", "b", host=host)
        assert not peers.enter(End("c"), host)
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
    entered(peers, *[str(number) for number in range(50)])
    assert peers.were_full
    clock.advance(TOLD_EVERY)
    entered(peers, "later")
    clock.advance(REMEMBERED)
    assert not peers.were_full


def test_descriptors_are_raised_and_some_are_left_for_others() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        raised = raise_descriptors()
        assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raised is not None
        assert raised > 256 or raised == before[1]
        assert peers_of(Settings.load(max_connections=0)).most == max(raised - RESERVE, raised // 2)
        assert peers_of(Settings.load(max_connections=7)).most == 7
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
