"""What is forgotten is gone from the disk: not a word stands in the file or in its log."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from tests.contract.suite.desk import HERE, at
from tests.patience import until
from tests.unit.sqlite_files import engine, opened
from tests.unit.talk import talk
from turnkeep.errors import ThreadNotFound
from turnkeep.events import Event
from turnkeep.messages import text_content
from turnkeep.store.sqlite import vacuum

WORD = "UNSPEAKABLE"
OTHER = "KEPT-AS-IT-IS"


def words_in(path: Path, word: str = WORD) -> int:
    """How often a word stands in the file, its log and whatever else lies beside it."""
    folder = path.parent
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sum(file.read_bytes().count(word.encode()) for file in files)


@pytest.mark.parametrize("size", [1, 200, 4000])
@pytest.mark.parametrize("how", ["forgotten", "expired"])
async def test_not_a_word_of_a_forgotten_thread_is_left_while_the_store_is_open(
    how: str, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, WORD, "c1", size=size)
        await talk(desk, OTHER, "c2", size=size)
        assert words_in(path) > 5

        if how == "forgotten":
            assert await desk.store.forget(at("c1"), force=True)
        else:
            await desk.store.update(at("c2"), {"ttl": 10**9})
            await desk.wait(10**8)
            assert await desk.store.expire() >= 1
            for letter in await desk.store.dead():
                if letter.address == at("c1"):
                    await desk.store.discard(letter.dead_id)

        await until(lambda: words_in(path) == 0)
        assert words_in(path, OTHER) > 0
        assert await desk.store.thread(at("c2")) is not None
    assert words_in(path) == 0


async def test_a_reader_in_the_way_puts_it_off_and_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await talk(desk, WORD, "c1", size=10)
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM thread").get == 1

        await desk.store.forget(at("c1"), force=True)
        await desk.say("m9", where=at("c9"))  # goes on meanwhile

        assert words_in(path) > 0
        reader.close()
        await until(lambda: words_in(path) == 0)


async def test_what_older_versions_left_goes_with_a_vacuum(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        engine(desk).use().transaction.connection.pragma("secure_delete", 0)
        await talk(desk, WORD, "c1", size=4000)
        await desk.store.forget(at("c1"), force=True)
        await desk.say("m9", where=HERE)
    assert words_in(path) > 0

    before, after = vacuum(path)

    assert words_in(path) == 0
    assert after < before
    async with opened(path) as desk:
        assert await desk.waiting_ids() == ["m9"]


async def test_what_was_done_to_a_forgotten_thread_is_not_done_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        await desk.say("m1", where=at("c1"))
        await desk.store.edit(at("c1"), "m1", text_content(WORD), once="edit")
        await desk.store.forget(at("c1"), force=True, once="forget")
        await desk.say("m2", where=at("c1"))

        with pytest.raises(ThreadNotFound, match="forgotten since"):
            await desk.store.edit(at("c1"), "m1", text_content(WORD), once="edit")
        assert await desk.store.forget(at("c1"), force=True, once="forget")  # the first one, again
        assert await desk.waiting_ids(at("c1")) == ["m2"]


def test_events_are_made_of_what_this_test_knows() -> None:
    """A new field of an event that holds text has to be tried above."""
    assert {"text", "calls", "error", "metadata"} & set(Event.__dataclass_fields__) == {"text", "calls", "error"}
