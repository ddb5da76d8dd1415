"""Nobody comes in by the simulator: inside a service it listens nowhere, and alone it asks for its key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.attack.conftest import Tried
from tests.attack.target import Attempt, Target, opened
from tests.process.command import Desk
from tests.scenario.house import QUICK
from turnkeep.queue import AssistantMessageQueue
from turnkeep.settings import Settings
from turnkeep.simulator import Simulator, serve

KEY = "sk-simulator-of-the-tests"
STEERING = (
    "GET /_sim/", "GET /_sim/ledger", "GET /_sim/open", "POST /_sim/reset", "POST /_sim/script",
            "POST /_sim/faults", "DELETE /_sim/faults", "POST /_sim/pace", "POST /_sim/options", "POST /_sim/refuse",
            "GET /v1/models", "POST /v1/responses", "POST /v1/chat/completions", "GET /v1/responses/resp_1",
)  # fmt: skip
BEARER = {"Authorization": f"Bearer {KEY}"}
STRANGERS: Mapping[str, Mapping[str, str]] = {
    "without a key": {},
    "with a key that is no secret": {"Authorization": "Bearer sk-simulator"},
    "with a part of the key": {"Authorization": f"Bearer {KEY[:-1]}"},
    "with the key as another scheme": {"Authorization": f"Basic {KEY}"},
    "from a page": {**BEARER, "Origin": "https://evil.example"},
    "from a page of nowhere": {**BEARER, "Origin": "null"},
    "by a stranger's name": {**BEARER, "Host": "evil.example"},
    "by a name without a dot": {**BEARER, "Host": "evil"},
}


def attempts(http: aiohttp.ClientSession, base: str) -> Iterator[Attempt]:
    for name, headers in STRANGERS.items():
        for line in STEERING:
            yield stranger(http, base, line, name, headers)


def stranger(http: aiohttp.ClientSession, base: str, line: str, name: str, headers: Mapping[str, str]) -> Attempt:
    method, _, path = line.partition(" ")

    async def act(_: Target) -> str | None:
        plain = {"Content-Type": "text/plain", **headers}
        async with http.request(method, base + path, data=b'{"replies": ["[[say:steered]]"]}', headers=plain) as told:
            return None if told.status in (401, 403) else f"answered {told.status}"

    return Attempt("simulator", f"{line} {name}", act)


async def test_a_simulator_on_a_port_answers_nobody_without_its_key(tried: Tried) -> None:
    simulator = Simulator()
    async with opened() as target, serve(simulator, key=KEY) as url, aiohttp.ClientSession() as http:
        base = url.removesuffix("/v1")
        await tried(target, list(attempts(http, base)))
        async with http.get(f"{base}/_sim/ledger", headers=BEARER) as told:
            assert (told.status, (await told.json())["exchanges"]) == (200, [])
        assert not simulator.script.replies


@pytest.mark.parametrize("host", ["evil.example", "evil", "127.0.0.1.evil.example", ""])
async def test_without_a_key_it_answers_to_its_own_names_alone(host: str) -> None:
    async with serve(Simulator()) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/models", headers={"Host": host}) as told:
            assert told.status in (400, 403)
        async with http.get(f"{url}/models") as told:
            assert told.status == 200


# ---------------------------------------------------------------- inside a service


def listening_sockets(pid: int) -> list[str]:
    """Addresses, and paths of this system, on which a process takes connections."""
    ours = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            ours.add(os.readlink(link))
    found = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
        found += [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in ours]
    rows = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    return found + [row[-1] for row in rows if row[3] == "00010000" and f"socket:[{row[6]}]" in ours]


def test_a_service_without_a_model_listens_at_its_own_port_alone(tmp_path: Path) -> None:
    with Desk(tmp_path).running("dev") as service:
        assert service.process is not None
        [address] = listening_sockets(service.process.pid)
        assert int(address.rpartition(":")[2], 16) == service.port


async def test_what_a_simulator_answers_costs_nothing_and_says_who_it_was(tmp_path: Path) -> None:
    settings = Settings.load(**QUICK, store="memory:", openai_model="gpt-5.4", tenant_budget=1.0)
    async with AssistantMessageQueue.from_settings(settings) as queue:
        queue.start_worker()
        assert "simulator" in await queue.ask("c", "Who are you?")
        [run] = await queue.store.runs(queue.address("c"))
    assert (run.model, run.usage.cost_nano, run.usage.unpriced) == ("simulator", 0, 0)
    assert run.usage.total_tokens > 0


@pytest.mark.parametrize("verb", ["serve", "worker"])
def test_nobody_starts_a_guarded_service_with_a_simulator_unawares(tmp_path: Path, verb: str) -> None:
    desk = Desk(tmp_path, {"TURNKEEP_AUTH": "on", "TURNKEEP_PORT": "0"})
    said = desk.run(verb)
    assert said.code == 2
    assert "--simulator" in said.err
    assert "OPENAI_API_KEY" in said.err


async def test_a_service_says_that_a_simulator_answers(tmp_path: Path) -> None:
    with Desk(tmp_path, {"TURNKEEP_AUTH": "on"}).running("serve", "--simulator") as service:
        assert "simulator" in service.said
        async with aiohttp.ClientSession() as http, http.get(f"{service.url}/readyz") as told:
            assert (await told.json())["simulated"] is True
