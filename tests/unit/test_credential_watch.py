"""The watch over credentials that sockets and streams rest on."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest

from tests.patience import PATIENCE
from turnkeep.auth import credential_watch
from turnkeep.auth.credential_watch import LOOKS_AT_ONCE, CredentialWatch
from turnkeep.auth.principals import OPERATOR, Principal
from turnkeep.errors import NotAuthenticated, StoreUnavailable


@dataclass(eq=False)
class User:
    principal: Principal = OPERATOR
    is_broken: bool = False
    reasons: list[str] = field(default_factory=list)

    def expel(self, reason: NotAuthenticated) -> None:
        self.reasons.append(str(reason))
        if self.is_broken:
            raise RuntimeError("a mistake of ours")


@dataclass
class Access:
    over: set[str] = field(default_factory=set)
    is_away: bool = False
    silent: set[str] = field(default_factory=set)
    """Of these it says nothing."""
    cancelled: set[str] = field(default_factory=set)
    """What it asks about these is cancelled by others."""
    subjects: list[str] = field(default_factory=list)
    """Whom it was asked about."""

    async def revalidate(self, principal: Principal) -> None:
        self.subjects.append(principal.subject)
        if self.is_away:
            raise StoreUnavailable("away")
        if principal.subject in self.cancelled:
            raise asyncio.CancelledError
        if principal.subject in self.silent:
            await asyncio.Event().wait()
        if principal.subject in self.over:
            raise NotAuthenticated("the credential has expired")

    async def was_asked(self, times: int = 3) -> None:
        """So many times more."""
        target = len(self.subjects) + times
        async with asyncio.timeout(PATIENCE):
            while len(self.subjects) < target:
                await asyncio.sleep(0)


def person(name: str) -> Principal:
    return Principal(tenant="t", subject=name, scopes=frozenset())


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_watch, "LOOK_AGAIN", 0.001)


def watch_over(access: Access, *users: User) -> CredentialWatch:
    watch = CredentialWatch(access)  # type: ignore[arg-type]  # asked one thing alone
    for user in users:
        watch.add(user)
    return watch


def leave(watch: CredentialWatch, *users: User) -> None:
    for user in users:
        watch.remove(user)


async def test_who_has_a_credential_that_is_over_is_expelled_and_nobody_else() -> None:
    access, alice, bob = Access(over={"alice"}), User(person("alice")), User(person("bob"))
    watch = watch_over(access, alice, bob)
    await access.was_asked()
    assert set(alice.reasons) == {"the credential has expired"}
    assert bob.reasons == []
    watch.change_principal(bob, alice.principal)
    await access.was_asked()
    assert bob.reasons
    leave(watch, alice, bob)


async def test_one_that_breaks_keeps_nobody_from_being_expelled() -> None:
    access, users = Access(over={OPERATOR.subject}), [User(is_broken=True), User(is_broken=True), User()]
    watch = watch_over(access, *users)
    await access.was_asked()
    assert all(user.reasons for user in users)
    leave(watch, *users)


async def test_those_of_one_credential_are_asked_after_once_a_look() -> None:
    access, users, other = Access(), [User() for _ in range(50)], User(person("other"))
    watch = watch_over(access, *users, other)
    await access.was_asked(20)
    assert access.subjects.count(OPERATOR.subject) <= access.subjects.count("other") + 1
    leave(watch, *users, other)


async def test_many_credentials_are_asked_after_a_few_at_a_turn_of_the_loop() -> None:
    access, users = Access(), [User(person(str(number))) for number in range(3 * LOOKS_AT_ONCE + 1)]
    watch = watch_over(access, *users)
    totals = [0]
    async with asyncio.timeout(PATIENCE):
        while totals[-1] < 2 * len(users):
            await asyncio.sleep(0)
            totals.append(len(access.subjects))
    assert max(after - before for before, after in itertools.pairwise(totals)) == LOOKS_AT_ONCE
    assert set(access.subjects) == {user.principal.subject for user in users}
    leave(watch, *users)


async def test_nobody_asks_after_a_credential_that_nobody_has_any_more() -> None:
    access, stays, goes, changes = Access(), User(), User(person("goes")), User(person("changes"))
    watch = watch_over(access, stays, goes, changes)
    leave(watch, goes, goes)
    watch.change_principal(changes, OPERATOR)
    await access.was_asked()
    assert set(access.subjects) == {OPERATOR.subject}
    leave(watch, stays, changes)


async def test_a_store_that_is_away_empties_no_room() -> None:
    access, user = Access(is_away=True), User()
    watch = watch_over(access, user)
    await access.was_asked()
    assert user.reasons == []
    leave(watch, user)


@pytest.mark.parametrize("fault", ["silent", "cancelled"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_whatever_becomes_of_some_questions_others_are_asked(fault: str, *, first: bool) -> None:
    bad = {f"bad {number}" for number in range(3)}
    access, alice = Access(silent=bad) if fault == "silent" else Access(cancelled=bad), User(person("alice"))
    users = [User(person(name)) for name in bad]
    watch = watch_over(access, *([*users, alice] if first else [alice, *users]))
    await access.was_asked(4)
    access.over.add("alice")
    async with asyncio.timeout(PATIENCE):
        while not alice.reasons:
            await asyncio.sleep(0)
    assert not any(user.reasons for user in users)
    leave(watch, alice, *users)


async def test_an_answer_that_never_comes_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_watch, "ANSWER_WITHIN", 0.01)
    access, alice = Access(silent={"alice"}), User(person("alice"))
    watch = watch_over(access, alice)
    await access.was_asked()
    access.silent.clear()
    access.over.add("alice")
    async with asyncio.timeout(PATIENCE):
        while not alice.reasons:
            await asyncio.sleep(0)
    leave(watch, alice)


async def test_nobody_is_asked_after_twice_at_a_time() -> None:
    access, alice, bob = Access(silent={"alice"}), User(person("alice")), User(person("bob"))
    watch = watch_over(access, alice, bob)
    await access.was_asked(10)
    assert access.subjects.count("alice") == 1
    before = len(asyncio.all_tasks())
    leave(watch, alice, bob)
    async with asyncio.timeout(PATIENCE):
        while len(asyncio.all_tasks()) > before - 2:
            await asyncio.sleep(0)


async def test_a_stream_is_told_that_its_credential_is_over_and_watched_no_more_when_it_ends() -> None:
    access, stays = Access(), User()
    watch, is_told = watch_over(access, stays), asyncio.Event()
    with watch.stream_of(person("alice"), is_told.set) as credential:
        await access.was_asked()
        assert (credential.end, is_told.is_set()) == (None, False)
        access.over.add("alice")
        async with asyncio.timeout(PATIENCE):
            await is_told.wait()
        assert str(credential.end) == "the credential has expired"
    access.subjects.clear()
    await access.was_asked()
    assert "alice" not in access.subjects
    leave(watch, stays)


async def test_with_the_last_user_the_watch_ends_and_with_the_next_it_begins_again() -> None:
    access, before, first, second = Access(), len(asyncio.all_tasks()), User(), User()
    watch = watch_over(access, first)
    assert len(asyncio.all_tasks()) == before + 1
    watch.remove(first)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    watch.add(second)
    await access.was_asked()
    watch.remove(second)
