"""The store never sees what people say: not in its file, not in Redis, not in memory; and only its keys open it."""

from __future__ import annotations

import asyncio
import pickle
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.suite.desk import HERE, POLICY, Desk, at, delta, said
from tests.patience import PATIENCE
from tests.process.served import served
from tests.services import RedisServer
from tests.unit.talk import talk
from turnkeep.doors.http.recent_runs import RunSearch, newest_runs
from turnkeep.errors import ConfigurationError, StoreMisconfigured, StoreUnsealable
from turnkeep.messages import Address, content_text, text_content
from turnkeep.store import seal_store
from turnkeep.store.aes import AesCodec, codec_of
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.seal import Seal
from turnkeep.store.sealing import SealedStore, require_unsealed
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.store.values import Policies, Receipt
from turnkeep.testing import FakeClock, counting_ids

WORD = "UNSPEAKABLE"
FIRST, SECOND = {"k1": b"1" * 32}, {"k2": b"2" * 32}


class Place:
    """Where an engine keeps things: opened anew as often as one likes, with any keys."""

    def __init__(self, make: Callable[[FakeClock], Store], content: Callable[[], bytes]) -> None:
        self.content = content
        self.clock = FakeClock()
        self._make = make

    @asynccontextmanager
    async def opened(self, keys: Mapping[str, bytes] | None) -> AsyncIterator[Desk]:
        engine = self._make(self.clock)
        store = require_unsealed(engine) if keys is None else seal_store(engine, AesCodec(keys))
        await store.open()
        try:
            yield Desk(store, self.clock)
        finally:
            await store.close()


def on_sqlite(tmp_path: Path) -> Place:
    policies = Policies(POLICY)

    def content() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    return Place(lambda clock: SqliteStore(tmp_path / "a.db", policies, clock=clock, ballast=0), content)


def on_redis(server: RedisServer) -> Place:
    prefix = f"bodies {secrets.token_hex(4)}:"
    policies = Policies(POLICY)

    def content() -> bytes:
        client = server.client()
        keys = list(client.scan_iter(match=f"*{prefix}*"))
        assert keys
        return b"".join(bytes(key) + bytes(client.dump(key) or b"") for key in keys)

    return Place(lambda clock: RedisStore(server.url(), policies, prefix=prefix, now=clock), content)


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return on_sqlite(tmp_path)
    server: RedisServer = request.getfixturevalue("redis_server")
    client = server.client()
    client.config_set("rdbcompression", "no")
    return on_redis(server)


@pytest.mark.parametrize("keys", [None, FIRST])
async def test_no_word_is_in_the_store_where_it_is_sealed(keys: Mapping[str, bytes] | None, place: Place) -> None:
    async with place.opened(keys) as desk:
        await talk(desk, WORD, "c1", size=20)

        found = place.content().count(WORD.encode())

    assert (found > 10) == (keys is None), found


async def test_no_word_is_in_memory(tmp_path: Path) -> None:
    engine = MemoryStore(Policies(POLICY), clock=(clock := FakeClock()), ids=counting_ids())
    store = seal_store(engine, AesCodec(FIRST))
    await store.open()
    await talk(Desk(store, clock), WORD, "c1", size=20)

    assert WORD.encode() not in pickle.dumps(_plain(engine))


def _plain(value: Any, depth: int = 0) -> Any:
    """Everything that can be reached from here, as text."""
    if depth > 12 or isinstance(value, type) or callable(value):
        return ""
    if isinstance(value, str | bytes | int | float | None):
        return value
    if isinstance(value, dict):
        return [(repr(key), _plain(one, depth + 1)) for key, one in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one, depth + 1) for one in value]
    names = [*getattr(type(value), "__slots__", ()), *getattr(value, "__dict__", {})]
    return [_plain(getattr(value, name, None), depth + 1) for name in names]


@pytest.mark.parametrize(
    ("keys", "words"),
    [(None, "set TURNKEEP_STORE_KEYS"), (SECOND, "not the keys"), ({"k1": b"x" * 32}, "not the keys")],
)
async def test_other_keys_or_none_are_refused_at_the_start(
    keys: Mapping[str, bytes] | None, words: str, place: Place
) -> None:
    async with place.opened(FIRST) as desk:
        await desk.say("m1", WORD)

    with pytest.raises(StoreMisconfigured, match=words):
        async with place.opened(keys):
            pass


async def test_a_new_key_before_the_old_one_seals_what_is_new_and_opens_what_is_old(place: Place) -> None:
    async with place.opened(FIRST) as desk:
        first = await desk.say("m1", WORD)
    async with place.opened({**SECOND, **FIRST}) as desk:
        await desk.say("m2", "second")
        [again] = await desk.store.accept([said("m1", WORD)])
        assert isinstance(again, Receipt)
        assert (again.repeated, again.thread_id) == (True, first.thread_id)
        texts = [content_text(one.message.content) for one in await desk.store.open_messages(HERE) if one.message]
    assert texts == [WORD, "second"]

    assert b"tks1:k1:" in place.content()
    assert b"tks1:k2:" in place.content()
    with pytest.raises(StoreMisconfigured):  # what says so is sealed with the new key
        async with place.opened(FIRST):
            pass


async def test_a_store_with_a_past_is_sealed_from_now_on(place: Place) -> None:
    async with place.opened(None) as desk:
        await desk.say("m1", "said openly")
    async with place.opened(FIRST) as desk:
        await desk.say("m2", WORD)
        await desk.wait(5)
        claim = await desk.claim()
        assert [message.text for message in claim.messages] == ["said openly", WORD]
        await desk.commit(claim)
    assert WORD.encode() not in place.content()


async def test_a_message_that_does_not_open_takes_no_other_along(place: Place) -> None:
    async with place.opened({**FIRST, **SECOND}) as desk:
        await desk.say("m1", WORD, where=at("c1"))
    async with place.opened({**SECOND, **FIRST}) as desk:
        await desk.say("m2", "fine", where=at("c2"))
    async with place.opened(SECOND) as desk:
        await desk.wait(5)
        claims = await desk.claims()
        assert [claim.message_ids for claim in claims] == [("m2",)]
        [letter] = await desk.store.dead()
        assert (letter.message.message_id, letter.fault.code) == ("m1", "store_unsealable")
        assert "'k1'" in letter.message.text


async def test_a_thread_that_does_not_open_hides_no_other_from_a_list(place: Place) -> None:
    """A key is taken away once nothing new is sealed with it, and what is old may still be there."""
    async with place.opened({**FIRST, **SECOND}) as desk:
        await desk.commit(await desk.lease("m1", where=at("c1")), WORD)
        await desk.store.update(at("c1"), {"metadata": {"name": WORD}})
    async with place.opened({**SECOND, **FIRST}) as desk:
        await desk.commit(await desk.lease("m2", where=at("c2")), "fine")
        await desk.store.update(at("c2"), {"metadata": {"name": "fine"}})
    async with place.opened(SECOND) as desk:
        listing = ThreadSearch(HERE.tenant, HERE.queue)
        records = await desk.store.search(listing)
        assert {one.address.channel: dict(one.metadata) for one in records} == {"c2": {"name": "fine"}, "c1": {}}
        assert "c2" in {one.address.channel for one in await newest_runs(desk.store, RunSearch(listing))}
        with pytest.raises(StoreUnsealable):
            await desk.store.thread(at("c1"))


async def test_texts_that_the_store_has_put_together_open(place: Place) -> None:
    """A long log is rolled up by the engine, which then joins what it cannot read."""
    async with place.opened(FIRST) as desk:
        claim = await desk.lease("m1")
        for n in range(POLICY.log_events + 50):
            await desk.store.publish(claim, n, [delta(f"{n} ")])
        page = await desk.store.read(HERE, after=0, limit=10_000)

    whole = "".join(event.text for event in page.events if event.kind in ("delta", "snapshot"))
    assert whole == "".join(f"{n} " for n in range(POLICY.log_events + 50))


async def test_a_service_answers_over_a_sealed_store(tmp_path: Path) -> None:
    keys = "k1:" + "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE="
    async with served(str(tmp_path / "a.db"), store_keys=keys) as server:
        assert f"{WORD}!" in await server.queue.ask("c1", f"[[say:{WORD}!]]")
        await server.queue.ask("c1", "again")
        entries = (await server.queue.store.history(server.queue.address("c1"))).entries
        assert [WORD in repr(entry.item) for entry in entries] == [True, True, False, False]
    found = on_sqlite(tmp_path).content()
    assert WORD.encode() not in found
    assert b"tks1:k1:" in found


HARMLESS = frozenset(
    (
        *(
            "renew",
            "cancel",
            "flush",
            "typing",
            "pause",
            "resume",
            "counts",
            "revision",
            "redrive",
            "discard",
            "ready",
            "wait_nudge",
        ),
        *(
            "open_sink",
            "close_sink",
            "lease_sink",
            "mark_delivered",
            "list_parked",
            "note_failure",
            "redrive_parked",
            "unpark",
        ),
        *("sinks", "regenerate", "stats", "forget", "expire", "get", "put", "take", "list", "reserve", "settle"),
        *(
            "sweep",
            "spend",
            "pace",
            "slow_down",
            "trip",
            "circuits",
            "ledgers",
            "probe",
            "mend",
            "close",
            "check",
            "now",
        ),
    )
)
"""Operations that neither take nor give what people said."""


def test_every_operation_of_the_contract_is_sealed_or_holds_nothing_to_seal() -> None:
    """A new operation has to be looked at: it is sealed in `store/sealing.py`, or named here."""
    operations = {name for name in dir(Store) if not name.startswith("_") and callable(getattr(Store, name))}

    assert operations - set(vars(SealedStore)) == HARMLESS


# ---------------------------------------------------------------- the seal itself

ADDRESS = Address("t", "q", "c")
texts = st.text(max_size=60) | st.sampled_from(["", "tks1:k1:AAAA;", "\ud800", "tks1:", "a" * 5000])


@given(st.lists(texts, max_size=5))
def test_tokens_in_a_row_open_to_the_texts_in_a_row(said: list[str]) -> None:
    seal = Seal(AesCodec(FIRST), ADDRESS)

    assert seal.open_text("".join(seal.text(one) for one in said)) == "".join(said)


@given(st.dictionaries(texts, texts | st.integers() | st.lists(texts), max_size=4))
def test_a_mapping_is_one_token_and_opens_to_itself(said: dict[str, Any]) -> None:
    seal = Seal(AesCodec(FIRST), ADDRESS)

    assert seal.unseal(seal.mapping(said)) == said
    assert len(seal.mapping(said)) <= 1


def test_the_same_text_is_sealed_alike_and_another_tenant_cannot_open_it() -> None:
    codec = AesCodec(FIRST)
    token = Seal(codec, ADDRESS).text(WORD)

    assert token == Seal(codec, Address("t", "q", "other channel")).text(WORD)
    for other in (Address("u", "q", "c"), Address("t", "r", "c")):
        assert token != Seal(codec, other).text(WORD)
        with pytest.raises(StoreUnsealable):
            Seal(codec, other).open_text(token)


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_one_changed_character_does_not_open(place: int) -> None:
    seal = Seal(AesCodec(FIRST), ADDRESS)
    token = seal.text(WORD)
    head = len("tks1:k1:")
    place = head + place % (len(token) - head - 2)
    changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]

    with pytest.raises(StoreUnsealable):
        seal.open_text(changed)


def test_every_text_of_a_message_is_sealed_but_its_names() -> None:
    message = said("m1", text_content(WORD)).but(
        instructions=WORD, user_instructions=WORD, assistant_instructions=WORD, metadata={WORD: WORD}, on_busy="queue"
    )

    hidden = Seal(AesCodec(FIRST), ADDRESS).whole(message)

    assert WORD not in repr(hidden)
    assert (hidden.message_id, hidden.on_busy, hidden.address) == ("m1", "queue", message.address)
    assert Seal(AesCodec(FIRST), ADDRESS).unseal(hidden) == message


@pytest.mark.parametrize(
    "text",
    ["", "k1", "k1:", "k1:short", f"k1:{'A' * 44}", "a b:" + "MTEx" * 10 + "MTE=", "k1:!" + "A" * 43, "x" * 5000],
)
def test_keys_that_are_none_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="TURNKEEP_STORE_KEYS") as refused:
        codec_of(text)
    assert "AAAA" not in str(refused.value)


# ---------------------------------------------------------------- forgetting


async def test_what_is_forgotten_is_in_no_key_any_more(place: Place) -> None:
    async with place.opened(None) as desk:
        await talk(desk, WORD, "c1", size=20)
        await talk(desk, "KEPT-AS-IT-IS", "c2", size=20)
        await desk.store.forget(at("c1"), force=True)

        async with asyncio.timeout(PATIENCE):
            while place.content().count(WORD.encode()):
                await asyncio.sleep(0.05)
        assert place.content().count(b"KEPT-AS-IT-IS")


def test_every_operation_it_seals_is_one_of_the_contract() -> None:
    """What has another name is not met: then the engine's own operation is, which is sealed."""
    operations = {name for name in vars(SealedStore) if not name.startswith("_")}
    assert operations - set(dir(Store)) == set()
