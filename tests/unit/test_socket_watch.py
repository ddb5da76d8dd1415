"""The watch over open sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.patience import PATIENCE
from turnkeep.auth.principals import OPERATOR, Principal
from turnkeep.doors.socket import socket_watch
from turnkeep.doors.socket.socket_watch import SocketWatch
from turnkeep.errors import NotAuthenticated, StoreUnavailable


@dataclass(eq=False)
class Peer:
    principal: Principal = OPERATOR
    is_broken: bool = False
    unsent: int = 1
    looks: int = 0
    reasons: list[str] = field(default_factory=list)

    def count_unsent(self) -> int:
        return self.unsent

    def look(self, now: float) -> None:
        self.looks += 1
        if self.is_broken:
            raise RuntimeError("a mistake of ours")

    def expel(self, reason: str) -> None:
        self.reasons.append(reason)


@dataclass
class Access:
    over: set[str] = field(default_factory=set)
    is_away: bool = False
    asked: list[str] = field(default_factory=list)

    async def revalidate(self, principal: Principal) -> None:
        self.asked.append(principal.subject)
        if self.is_away:
            raise StoreUnavailable("away")
        if principal.subject in self.over:
            raise NotAuthenticated("the credential has expired")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_watch, "LOOK_AGAIN", 0.001)


async def until_looked_at(peer: Peer, times: int = 3) -> None:
    target = peer.looks + times
    async with asyncio.timeout(PATIENCE):
        while peer.looks < target:
            await asyncio.sleep(0)


def watch_over(access: Access, *peers: Peer) -> SocketWatch:
    watch = SocketWatch(access)  # type: ignore[arg-type]  # asked one thing alone
    for peer in peers:
        watch.add(peer)
    return watch


async def test_a_socket_that_breaks_keeps_nobody_from_being_watched() -> None:
    broken, other = Peer(is_broken=True), Peer()
    watch = watch_over(Access(), broken, other)
    await until_looked_at(other)
    assert broken.looks > 0
    for peer in (broken, other):
        watch.remove(peer)


async def test_who_has_a_credential_that_is_over_is_expelled_and_nobody_else() -> None:
    alice, bob = (Peer(Principal(tenant="t", subject=name, scopes=frozenset())) for name in ("alice", "bob"))
    watch = watch_over(Access(over={"alice"}), alice, bob)
    await until_looked_at(bob)
    assert set(alice.reasons) == {"the credential has expired"}
    assert bob.reasons == []
    watch.change_principal(bob, alice.principal)
    await until_looked_at(bob)
    assert bob.reasons
    for peer in (alice, bob):
        watch.remove(peer)


async def test_sockets_of_one_credential_are_asked_after_once_a_look() -> None:
    access, peers = Access(), [Peer() for _ in range(50)]
    watch = watch_over(access, *peers)
    await until_looked_at(peers[0])
    assert len(access.asked) <= socket_watch.PEERS_EVERY * (peers[0].looks + 1)
    for peer in peers:
        watch.remove(peer)


async def test_nobody_asks_after_a_credential_that_no_socket_has_any_more() -> None:
    access, stays = Access(), Peer()
    goes, changes = (Peer(Principal(tenant="t", subject=name, scopes=frozenset())) for name in ("goes", "changes"))
    watch = watch_over(access, stays, goes, changes)
    watch.remove(goes)
    watch.change_principal(changes, OPERATOR)
    await until_looked_at(stays)
    assert set(access.asked) == {OPERATOR.subject}
    for peer in (stays, changes):
        watch.remove(peer)


async def test_a_socket_is_looked_at_while_its_peer_has_not_taken_everything_and_once_after_that() -> None:
    slow, idle, clock = Peer(), Peer(unsent=0), Peer()
    watch = watch_over(Access(), slow, idle, clock)
    await until_looked_at(clock)
    assert slow.looks
    slow.unsent, looks = 0, slow.looks
    await until_looked_at(clock)
    assert (slow.looks, idle.looks) == (looks + 1, 0)
    for peer in (slow, idle, clock):
        watch.remove(peer)


async def test_a_store_that_is_away_empties_no_room() -> None:
    peer = Peer()
    watch = watch_over(Access(is_away=True), peer)
    await until_looked_at(peer)
    assert peer.reasons == []
    watch.remove(peer)


async def test_with_the_last_socket_the_watch_ends_and_with_the_next_it_begins_again() -> None:
    before, first, second = len(asyncio.all_tasks()), Peer(), Peer()
    watch = watch_over(Access(), first)
    assert len(asyncio.all_tasks()) == before + 1
    watch.remove(first)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    watch.add(second)
    await until_looked_at(second)
    watch.remove(second)
