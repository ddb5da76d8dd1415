"""The watch over open sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tests.patience import PATIENCE
from turnkeep.auth.credential_watch import CredentialWatch
from turnkeep.auth.principals import OPERATOR, OpenAccess, Principal
from turnkeep.doors.socket import socket_watch
from turnkeep.doors.socket.socket_watch import SocketWatch
from turnkeep.errors import NotAuthenticated


@dataclass(eq=False)
class Peer:
    principal: Principal = OPERATOR
    is_broken: bool = False
    unsent: int = 1
    looks: int = 0

    def count_unsent(self) -> int:
        return self.unsent

    def look(self, now: float) -> None:
        self.looks += 1
        if self.is_broken:
            raise RuntimeError("a mistake of ours")

    def expel(self, reason: NotAuthenticated) -> None:
        raise reason


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_watch, "LOOK_AGAIN", 0.001)


async def until_looked_at(peer: Peer, times: int = 3) -> None:
    target = peer.looks + times
    async with asyncio.timeout(PATIENCE):
        while peer.looks < target:
            await asyncio.sleep(0)


def watch_over(*peers: Peer) -> SocketWatch:
    watch = SocketWatch(CredentialWatch(OpenAccess()))
    for peer in peers:
        watch.add(peer)
    return watch


async def test_a_socket_that_breaks_keeps_nobody_from_being_watched() -> None:
    broken, other = Peer(is_broken=True), Peer()
    watch = watch_over(broken, other)
    await until_looked_at(other)
    assert broken.looks > 0
    for peer in (broken, other):
        watch.remove(peer)


async def test_a_socket_is_looked_at_while_its_peer_has_not_taken_everything_and_once_after_that() -> None:
    slow, idle, clock = Peer(), Peer(unsent=0), Peer()
    watch = watch_over(slow, idle, clock)
    await until_looked_at(clock)
    assert slow.looks
    slow.unsent, looks = 0, slow.looks
    await until_looked_at(clock)
    assert (slow.looks, idle.looks) == (looks + 1, 0)
    for peer in (slow, idle, clock):
        watch.remove(peer)


async def test_with_the_last_socket_the_watch_ends_and_with_the_next_it_begins_again() -> None:
    before, first, second = len(asyncio.all_tasks()), Peer(), Peer()
    watch = watch_over(first)
    assert len(asyncio.all_tasks()) == before + 2, "peers, and credentials"
    watch.remove(first)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    watch.add(second)
    await until_looked_at(second)
    watch.remove(second)
