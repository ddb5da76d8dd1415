"""Damaged files and rows: what is lost is told, and what is whole goes on."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from tests.contract.suite.desk import QUEUE, TENANT, Desk, answer, at, delta, give_up
from tests.unit.sqlite_files import engine, opened
from turnkeep.doors.http.recent_runs import RunSearch, newest_runs
from turnkeep.errors import InvalidMessage, StoreError, ThreadQuarantined
from turnkeep.events import TurnFault
from turnkeep.messages import AssistantItem
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.thread_search import ThreadSearch

BROKEN, WHOLE = at("broken"), at("whole")


def damage(desk: Desk, statement: str) -> None:
    """As if a bit had flipped: by another connection, behind the back of the store."""
    connection = apsw.Connection(str(engine(desk).path))
    connection.execute(statement)
    # else a thread in memory, which has no damage, counts as what the file says
    connection.execute("UPDATE thread SET head = head || ' '")
    connection.close()


DAMAGES = [
    "UPDATE thread SET head = 'no json' WHERE channel = 'broken'",
    "UPDATE thread SET head = '[]' WHERE channel = 'broken'",
    "UPDATE thread SET head = '{}' WHERE channel = 'broken'",
    "UPDATE message SET body = '{\"message\": 5}' WHERE message_id = 'b1'",
    "DELETE FROM message WHERE message_id = 'b1'",
]


@pytest.mark.parametrize("statement", DAMAGES)
async def test_a_damaged_thread_is_put_aside_alone(tmp_path: Path, statement: str) -> None:
    async with opened(tmp_path / "a.db") as desk:
        leased = [await desk.lease("b1", where=BROKEN), await desk.lease("w1", where=WHOLE)]
        for claim in leased:
            await desk.store.journal(claim, [{"n": 0, "kind": "item"}])
            await desk.store.release(claim)
        damage(desk, statement)

        with pytest.raises(ThreadQuarantined, match="cannot be read"):
            await desk.say("b2", where=BROKEN)
        with pytest.raises(ThreadQuarantined):
            await desk.store.thread(BROKEN)
        claims = await desk.claims()

        assert [claim.address for claim in claims] == [WHOLE]
        assert await desk.claims() == []
        await desk.store.commit(claims[0], answer(claims[0]))
        assert [record.address async for record in desk.store.scan()] == [WHOLE]
        assert (await desk.store.counts()).completed == 1
        assert (await desk.store.stats()).threads == 2


async def test_a_value_of_a_wrong_type_stops_its_thread_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        await desk.say("b1", where=BROKEN, not_before=desk.now + 5)
        await desk.say("w1", where=WHOLE, not_before=desk.now + 5)
        damage(desk, "UPDATE message SET body = json_set(body, '$.message.window', 'x') WHERE message_id = 'b1'")
        await engine(desk).close()
        await engine(desk).open()
        await desk.wait(60)

        assert [claim.address for claim in await desk.claims()] == [WHOLE]
        assert await desk.claims() == []


async def test_a_damaged_thread_can_be_forgotten_by_force(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        claim = await desk.lease("m0", where=BROKEN)
        await desk.store.fail(claim, give_up())
        await desk.say("b1", where=BROKEN)
        damage(desk, DAMAGES[0])

        with pytest.raises(ThreadQuarantined):
            await desk.store.forget(BROKEN)
        assert await desk.store.forget(BROKEN, force=True)

        assert (await desk.say("b1", where=BROKEN)).repeated
        await desk.say("b2", where=BROKEN)
        assert await desk.waiting_ids(BROKEN) == ["b2"]
        assert await desk.store.dead() == []


async def test_a_run_on_a_damaged_thread_loses_its_lease_and_the_others_keep_theirs(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        broken = await desk.lease("b1", where=BROKEN)
        whole = await desk.lease("w1", where=WHOLE)
        damage(desk, DAMAGES[0])

        found = await desk.store.renew(broken.owner, [broken, whole], lease=30.0)

        assert [found[claim.token].held for claim in (broken, whole)] == [False, True]


async def test_a_damaged_event_or_item_spoils_its_channel_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        for message_id, where in (("b1", BROKEN), ("w1", WHOLE)):
            claim = await desk.lease(message_id, where=where)
            await desk.store.publish(claim, 0, [delta("a")])
            await desk.commit(claim)
        damage(desk, "UPDATE event SET body = 'x' WHERE thread = (SELECT id FROM thread WHERE channel = 'broken')")
        damage(desk, "UPDATE entry SET item = '{}' WHERE thread = (SELECT id FROM thread WHERE channel = 'broken')")

        with pytest.raises(ThreadQuarantined, match="a stored event cannot be read"):
            await desk.store.read(BROKEN)
        with pytest.raises(ThreadQuarantined, match="a stored item cannot be read"):
            await desk.store.history(BROKEN)
        assert len(await desk.transcript(WHOLE)) == 2
        assert len(await desk.events(WHOLE)) == 4


async def test_a_damaged_run_hides_no_runs_of_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        for channel in ("a", "b"):
            await desk.commit(await desk.lease("m1", where=at(channel)), "x")
        damage(desk, "UPDATE run SET body = '[]' WHERE id = 1")
        runs = await newest_runs(desk.store, RunSearch(ThreadSearch(TENANT, QUEUE)))
        assert [one.address.channel for one in runs] == ["b"]


async def test_a_damaged_page_is_told_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        for n in range(200):
            await desk.say(f"m{n}", "x" * 500, where=at(f"c{n}"))
    with path.open("r+b") as file:
        for page in range(3, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)

    with pytest.raises(StoreError, match="is damaged, stop turnkeep and put a backup in its place"):
        async with opened(path) as desk:
            await desk.say("m1", where=at("new"))


async def test_a_writer_survives_what_an_operation_does_to_its_transaction(tmp_path: Path) -> None:
    def ends_it(tx: Transaction) -> None:
        tx.connection.execute("COMMIT")

    async with opened(tmp_path / "a.db") as desk:
        with pytest.raises(StoreError):
            await engine(desk).write(ends_it)

        await desk.say("m1")


async def test_opening_fails_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path):
        pass
    damaged = apsw.Connection(str(path))
    damaged.execute("DROP TABLE event")
    damaged.close()

    store = SqliteStore(path, ballast=0)
    with pytest.raises(StoreError, match="no such table: event"):
        await store.open()

    assert not (tmp_path / "a.db.owners").exists()
    await store.close()


async def test_half_a_character_in_a_name_is_refused_and_in_a_text_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        with pytest.raises(InvalidMessage, match="half a character"):
            await desk.say("m1", where=at("\ud800"))
        with pytest.raises(InvalidMessage, match="half a character"):
            await desk.store.thread(at("\ud800"))

        claim = await desk.lease("m2", where=WHOLE)
        await desk.store.publish(claim, 0, [delta("\ud800")])
        await desk.commit(claim, "\ud800")

        [_, said] = await desk.transcript(WHOLE)
        assert isinstance(said, AssistantItem)
        assert said.text == "\ud800"


@pytest.mark.parametrize("fault", ["no json", "[]", "{}", '{"code": "a", "other": "b"}'])
async def test_a_circuit_whose_reason_cannot_be_read_stays_one(tmp_path: Path, fault: str) -> None:
    async with opened(tmp_path / "a.db") as desk:
        await desk.store.trip("e", TurnFault("model_unavailable", "later"), probe_in=0.0)
        damage(desk, f"UPDATE circuit SET fault = '{fault}'")

        [circuit] = await desk.store.circuits()
        assert (circuit.endpoint, circuit.fault.code) == ("e", "circuit_damaged")
        assert await desk.store.trip("e", circuit.fault, probe_in=0.0) == circuit
        assert await desk.store.probe("e", every=1.0)
        assert await desk.store.mend("e")
        assert await desk.store.circuits() == []
