"""The AsyncAPI document of the socket and AMQP is what the tables say, and what a server sends."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs

from tests.process.served import ask, frames_until_final, heard, served
from turnkeep.simulator import Fault
from turnkeep.tools import tool

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "reference" / "asyncapi.json").read_text())


def test_the_document_is_made_of_the_tables() -> None:
    spec = importlib.util.spec_from_file_location("asyncapi", ROOT / "scripts" / "asyncapi_reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert (ROOT / "docs/reference/asyncapi.json").read_text() == reference.text(), "run: scripts/asyncapi_reference.py"


def test_every_reference_leads_somewhere() -> None:
    for path in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DOCUMENT))):
        place: Any = DOCUMENT
        for step in path.split("/"):
            place = place[step]


def checked(schema: str) -> Any:
    components = {"components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for({**components, "$ref": f"#/components/schemas/{schema}"})


@tool(needs_approval=True)
def send_invoice(to: str) -> str:
    """Send an invoice."""
    return f"sent to {to}"


async def test_what_a_server_sends_and_takes_is_what_it_describes() -> None:
    frames = []
    async with served(tools=[send_invoice], max_attempts=1) as there, there.socket() as socket:
        there.simulator.faults.append(Fault("400", times=1, match="wrong"))
        for channel, text in (("a", "hello [[words:30]]"), ("b", "wrong"), ("c", '[[call:send_invoice {"to": "x"}]]')):
            frames.append(await ask(socket, {"action": "subscribe", "channel": channel, "events": "all"}))
            said = {"channel": channel, "message_id": "m1", "message": text, "flush": True}
            checked("Sent").validate(said)
            frames.append(await ask(socket, said))
            if channel == "c":
                while "calls" not in frames[-1]:
                    frames.append(await heard(socket))
            else:
                frames += await frames_until_final(socket, "m1")
    assert {frame["type"] for frame in frames} == {"status", "response", "error"}
    for frame in frames:
        checked("Frame").validate(frame)
    assert not checked("Frame").is_valid({**frames[0], "type": "other"})
    assert not checked("Sent").is_valid({"message": "without a channel"})
