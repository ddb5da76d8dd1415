"""The audit trail on the command line: what verbs and doors did, told once, without a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.command import Desk
from tests.services.process import eventually

CANARY = "canary-in-a-name"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_verbs_do_is_told_without_what_was_said(desk: Desk) -> None:
    made = desk.run("keys", "create", "--name", CANARY, "--scopes", "read,approve", "--json").json
    desk.run("assistants", "create", "--name", CANARY, "--instructions", CANARY)
    desk.run("send", "--here", f"{CANARY}-channel", f"[[say:{CANARY}]]")
    desk.run("threads", "forget", f"{CANARY}-channel", "--force", "--yes")
    desk.run("keys", "revoke", made["id"], "--yes")

    told = desk.run("audit", "tail", "--json").all_json
    assert [event["event"] for event in told] == [
        "key_created",
        "assistant_created",
        "channel_forgotten",
        "key_revoked",
    ]
    assert told[0]["about"] == {"key": made["id"], "scopes": "approve,read"}
    assert {event["door"] for event in told} == {"command line"}
    said = desk.run("audit", "tail").out
    assert CANARY not in said + json.dumps(told)
    assert made["key"].rpartition("_")[2] not in said + json.dumps(told)
    assert [line.split()[3] for line in said.splitlines()] == [event["event"] for event in told]
    [forgotten] = desk.run("audit", "tail", "--channel", f"{CANARY}-channel", "--json").all_json
    assert forgotten["about"]["force"] == "true"
    assert desk.run("audit", "tail", "-n", "1", "--json").json["event"] == "key_revoked"


def test_what_happens_is_followed(desk: Desk) -> None:
    desk.run("keys", "create")
    with desk.running("audit", "tail", "--follow", listens=False) as following:
        desk.run("keys", "create", "--scopes", "approve")
        eventually(lambda: following.said.count("key_created") == 2, PATIENCE, "the second key", following.died)
        assert following.said.count("approve") == 1
