"""The index of what was said: made by searches, complete, forgetful, and in nobody's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.contract.suite.desk import QUEUE, TENANT, Desk, at
from tests.unit.sqlite_files import opened
from turnkeep.errors import StoreMisconfigured, StoreUnavailable
from turnkeep.messages import AssistantItem, Item
from turnkeep.store.passages import TextSearch
from turnkeep.store.sqlite import passage_index
from turnkeep.store.values import TranscriptEntry

SECRET = "Xylophone"


async def talk(desk: Desk, channel: str, words: str) -> None:
    await desk.commit(await desk.lease("m", where=at(channel)), words)


async def places(desk: Desk, text: str) -> list[str]:
    return [one.address.channel for one in await desk.store.find_passages(TextSearch(text, TENANT, QUEUE))]


def letters_in(path: Path) -> set[str]:
    """The groups of letters that the index holds."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("CREATE VIRTUAL TABLE temp.letters USING fts5vocab(main, passage, row)")
    letters = {term for (term,) in connection.execute("SELECT term FROM temp.letters")}
    connection.close()
    return letters


async def test_what_is_older_than_a_scan_reaches_is_found_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage_index, "_SCAN", passage_index._SCAN.replace("100000", "2"))
    monkeypatch.setattr(passage_index, "AT_ONCE", 3)
    async with opened(tmp_path / "a.db") as desk:
        for n in range(8):
            await talk(desk, f"c{n}", f"a {SECRET} number {n}")

        assert await places(desk, "YLOPHON") == [f"c{n}" for n in range(7, -1, -1)]
        await talk(desk, "c8", f"another {SECRET}")
        assert await places(desk, "lopho") == [f"c{n}" for n in range(8, -1, -1)]
        assert await places(desk, "xy") == ["c8"]  # too short for the index: what the scan reaches
        assert await places(desk, 'x"y') == await places(desk, "x\0y") == await places(desk, "\ud800yx") == []


@pytest.mark.parametrize("how", ["forget", "expire", "compact", "regenerate"])
async def test_what_leaves_a_transcript_leaves_the_index_letter_by_letter(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, "other", "nothing of it")
        await talk(desk, "c", SECRET)
        assert await places(desk, SECRET) == ["c"]
        assert "xyl" in letters_in(path)
        if how == "forget":
            await desk.store.forget(at("c"))
        elif how == "expire":
            await desk.store.update(at("other"), {"ttl": 10**9})
            await desk.wait(10**8)
            assert await desk.store.expire() == 1
        elif how == "compact":
            await desk.store.compact(at("c"), through_turn=1, summary="they talked")
        else:
            await desk.store.regenerate(at("c"))

        assert not letters_in(path) & {"xyl", "hon"}
        assert "not" in letters_in(path)
        assert await places(desk, SECRET) == []
        # ids of deleted entries are given again: what comes under them is found too
        await desk.store.append(at("new"), [TranscriptEntry(AssistantItem("a Quetzal"), 1)])
        assert await places(desk, "quetzal") == ["new"]
        assert await places(desk, "nothing of it") == ["other"]


async def test_nobody_indexes_who_does_not_search_and_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, "c", SECRET)
        with pytest.raises(apsw.SQLError, match="no such fts5 table"):
            letters_in(path)
        await places(desk, SECRET)
    async with opened(path) as desk:  # a file with an index opens
        connection = apsw.Connection(str(path))
        connection.execute("UPDATE passage_data SET block = x'00'")
        connection.close()
        await talk(desk, "d", SECRET)
        assert await desk.store.forget(at("c"))
        assert await places(desk, SECRET) == ["d"]


@pytest.mark.parametrize("before", ["nothing", "what is forgotten"])
async def test_the_first_words_of_an_empty_store_that_was_searched_are_found(tmp_path: Path, before: str) -> None:
    async with opened(tmp_path / "a.db") as desk:
        if before != "nothing":
            await talk(desk, "old", SECRET)
        await places(desk, SECRET)
        await desk.store.forget(at("old"))
        await desk.store.append(at("new"), [TranscriptEntry(AssistantItem(SECRET), 1)])
        assert await places(desk, SECRET) == ["new"]


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM passage_data", "UPDATE passage_data SET block = x'ffffff' WHERE id > 10", "DROP TABLE passage"],
)
async def test_a_search_that_meets_a_damaged_index_makes_it_anew(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, "c", SECRET)
        await places(desk, SECRET)
    connection = apsw.Connection(str(path))
    connection.execute(damage)
    connection.close()
    async with opened(path) as desk:
        assert await places(desk, SECRET) == ["c"]
        await talk(desk, "d", SECRET)
        assert await places(desk, SECRET) == ["d", "c"]
        assert "xyl" in letters_in(path)


async def test_a_disk_that_fails_while_words_leave_the_index_fails_the_act_and_not_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(item: Item) -> str:
        raise apsw.IOError("disk I/O error")

    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, "c", SECRET)
        await places(desk, SECRET)
        with monkeypatch.context() as failing:
            failing.setattr(passage_index, "words_of", fail)
            with pytest.raises(StoreUnavailable):
                await desk.store.forget(at("c"))
        assert "xyl" in letters_in(path)
        assert await places(desk, SECRET) == ["c"]
        assert await desk.store.forget(at("c"))
        assert "xyl" not in letters_in(path)


async def test_a_search_that_meets_nothing_new_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, "c", SECRET)
        await places(desk, SECRET)
        other_process = apsw.Connection(str(path))
        before = other_process.pragma("data_version")
        assert await places(desk, SECRET) == ["c"]
        assert other_process.pragma("data_version") == before
        await talk(desk, "d", SECRET)
        assert other_process.pragma("data_version") != before
        other_process.close()


async def test_another_virtual_table_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, "c", SECRET)
    connection = apsw.Connection(str(path))
    connection.execute("CREATE VIRTUAL TABLE passage USING fts5 (words)")
    connection.close()
    with pytest.raises(StoreMisconfigured, match="a virtual table"):
        async with opened(path):
            pass


@pytest.fixture
def without_fts5(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes this process one whose SQLite is built without FTS5, as far as new connections go."""

    def take_away(connection: apsw.Connection) -> None:
        connection.create_module("fts5", None)

    def use() -> None:
        monkeypatch.setattr(passage_index, "IS_THERE", False)
        monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, take_away])

    return use


async def test_a_sqlite_that_cannot_read_the_index_is_refused_before_it_could_forget_by_halves(
    tmp_path: Path, without_fts5: Callable[[], None]
) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, "c", f"a {SECRET}")
        assert await places(desk, SECRET) == ["c"]
    without_fts5()

    with pytest.raises(StoreMisconfigured, match="built without FTS5"):
        async with opened(path):
            pass


async def test_a_sqlite_without_fts5_finds_by_a_scan_and_forgets(
    tmp_path: Path, without_fts5: Callable[[], None]
) -> None:
    without_fts5()
    async with opened(tmp_path / "a.db") as desk, opened(tmp_path / "a.db") as other:
        await talk(desk, "c", f"a {SECRET}")
        await talk(desk, "d", f"a {SECRET}")
        assert await places(other, SECRET) == ["d", "c"]
        await other.store.forget(at("c"))
        assert await places(desk, SECRET) == ["d"]
