"""The wire page names every action, status and sentence that there is."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from turnkeep import errors, wire
from turnkeep.doors.amqp.dead_exchange import DETAILS, REASON
from turnkeep.doors.socket.socket_actions import ACTIONS
from turnkeep.outbound.greeting import HEADER
from turnkeep.outbound.webhook import signature_headers, signing_key
from turnkeep.wording import CAUSES, sentences

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference/wire.md").read_text()
RABBITMQ = (DOCS / "how-to/rabbitmq.md").read_text()
RELAY = (DOCS / "how-to/relay-and-webhooks.md").read_text()


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_an_action_of_the_socket_is_on_the_page(action: str) -> None:
    assert f"`{action}`" in PAGE or f'"action": "{action}"' in PAGE


@pytest.mark.parametrize("kind", sorted(wire.DETAIL_KINDS))
def test_a_life_cycle_event_is_on_the_page(kind: str) -> None:
    assert f"`{kind}`" in PAGE


@pytest.mark.parametrize("sentence", [wire.STARTED_TEXT, wire.PROCESSING, wire.RESPONDING])
def test_a_fixed_sentence_is_on_the_page(sentence: str) -> None:
    assert sentence in PAGE


@pytest.mark.parametrize("cause", CAUSES)
def test_the_sentence_of_a_cause_is_on_the_page(cause: str) -> None:
    [kind, *_] = [one for one in vars(errors).values() if getattr(one, "code", None) == CAUSES[cause][0]]
    assert f"| {cause.replace('_', ' ')} | {kind.public} |" in PAGE


def test_the_example_of_a_translation_is_a_file_that_is_taken(tmp_path: Path) -> None:
    block = PAGE.split("```toml\n")[1].split("```")[0]
    assert set(CAUSES) <= set(tomllib.loads(block))
    (tmp_path / "sentences.toml").write_text(block, "utf-8")
    sentences(tmp_path / "sentences.toml")


def test_headers_are_called_what_the_pages_call_them() -> None:
    assert f"`{REASON}`" in RABBITMQ
    assert f"`{DETAILS}`" in RABBITMQ
    assert f"`{HEADER}`" in RELAY
    assert f"`{HEADER}`" in PAGE


def test_the_verification_of_webhooks_on_its_page_works() -> None:
    names: dict[str, object] = {}
    exec(RELAY.split("```python\n")[1].split("```")[0], names)
    is_genuine = names["is_genuine"]
    assert callable(is_genuine)
    secret, body = "whsec_MDEyMzQ1Njc4OWFiY2RlZg==", b'{"type":"turn.completed"}'
    headers = signature_headers("evt_1", 1795213807, body, signing_key(secret))
    assert is_genuine(headers, body, secret)
    assert not is_genuine(headers, body + b" ", secret)
