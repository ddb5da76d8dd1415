"""`turnkeep doctor` and `/readyz` tell for each engine how safe a receipt is, and what can be lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.command import Desk
from tests.services import RedisServer


def told(folder: Path, **settings: str) -> str:
    said = Desk(folder).run("doctor", "--offline", "--json", **settings)
    return next(str(check["sentence"]) for check in said.json["checks"] if check["name"] == "store")


def test_the_doctor_tells_what_an_embedded_store_may_lose(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.run("threads", "new")
    assert "may lose nothing by a crash" in told(tmp_path)
    assert "loses everything when the process ends" in told(tmp_path, TURNKEEP_STORE="memory:")


@pytest.mark.parametrize(
    ("durability", "appendfsync", "window"),
    [
        ("fast", "no", "what the system had not written when its machine crashes"),
        (
            "standard",
            "everysec",
            "about the last second when its machine crashes; on a disk that is slow to sync up to two seconds, also"
            " when Redis itself is killed",
        ),
        ("strict", "always", "nothing by a crash"),
    ],
)
def test_the_doctor_tells_the_durability_of_a_redis_and_its_loss_window(
    redis_server: RedisServer, tmp_path: Path, durability: str, appendfsync: str, window: str
) -> None:
    redis_server.cli("CONFIG", "SET", "appendfsync", appendfsync)
    try:
        sentence = told(tmp_path, REDIS_URL=redis_server.url(), TURNKEEP_DURABILITY=durability)
    finally:
        redis_server.cli("CONFIG", "SET", "appendfsync", "everysec")
    assert f"redis, {durability}" in sentence
    assert sentence.endswith(f"may lose {window}")
