"""The OpenAPI document is true: whatever is sent along it, the answers are as it says, and nothing breaks."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

from tests.conftest import FULL
from tests.process.callers import guarded, token
from tests.process.served import served
from turnkeep.doors.app import app
from turnkeep.doors.http.openapi import document
from turnkeep.doors.http.routes import ENDPOINTS
from turnkeep.doors.http.schemas import SCHEMAS
from turnkeep.queue import AssistantMessageQueue

OUTSIDE = {"/ws", "/healthz", "/readyz", "/", "/static", "/dashboard", "/api/docs"}
"""Routes that are no part of `/api`."""


def test_every_route_of_the_application_is_in_the_document() -> None:
    application = app(AssistantMessageQueue(store="memory:"))
    told = document(ENDPOINTS)["paths"]
    routes = {
        (method, route.path.replace(":path", ""))  # type: ignore[attr-defined]
        for route in application.routes
        if getattr(route, "path", "") not in OUTSIDE
        for method in (getattr(route, "methods", None) or ())
        if method != "HEAD"
    }
    documented = {(method.upper(), path) for path, methods in told.items() for method in methods}

    assert routes == documented
    assert len(documented) == len(ENDPOINTS)


def test_every_schema_is_there_and_used() -> None:
    text = json.dumps(document(ENDPOINTS))
    used = {name for endpoint in ENDPOINTS for name in (*endpoint.answers.values(), endpoint.body) if name}
    assert used <= set(SCHEMAS)
    assert all(f'"#/components/schemas/{name}"' in text for name in SCHEMAS)
    assert all(endpoint.path in text for endpoint in ENDPOINTS)


async def test_the_document_is_served_to_everybody() -> None:
    async with served(role="gateway") as server, server.http.get(f"{server.url}/api/openapi.json") as told:
        assert (await told.json())["openapi"] == "3.1.0"


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_answers_are_as_the_document_says(
    size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    cases = size(60, 20_000)
    async with guarded(channel_rate="0", user_rate="0", max_inbox=5) as house:
        bearer = {"Authorization": f"Bearer {token(exp=time.time() + 86_400)}"}
        asked = await asyncio.to_thread(attack, house.server.url, bearer, cases)
        async with house.server.http.get(f"{house.server.url}/readyz") as told:
            assert told.status == 200
    broken = sum(count for status, count in asked.items() if status >= 500)
    mismatches = asked.pop(-1, 0)
    total = sum(asked.values())
    proof("openapi", f"cases {total} | 5xx {broken} | mismatches {mismatches} | statuses {dict(sorted(asked.items()))}")
    assert (broken, mismatches) == (0, 0)
    assert total >= cases
    assert asked[401] < cases / 20, "cases are to come further than the door"


def attack(url: str, headers: dict[str, str], cases: int) -> Counter[int]:
    """How often each status came; -1: answers that are not as the document says (printed)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import requests
        import schemathesis
        from schemathesis.checks import not_a_server_error
        from schemathesis.generation import GenerationMode
        from schemathesis.specs.openapi.checks import (
            content_type_conformance,
            response_schema_conformance,
            status_code_conformance,
        )

        checks = [
            not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
        ]  # fmt: skip
        schema = schemathesis.openapi.from_url(f"{url}/api/openapi.json")
        operations: list[Any] = [_sound(found) for found in schema.exclude(path_regex="/events$").get_all_operations()]
        asked: Counter[int] = Counter()
        session = requests.Session()
        each, both = -(-cases // len(operations)), (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        for number, operation in enumerate(operations):
            if operation.label.endswith("/api/session"):
                session.cookies.clear()
            modes = both if FULL else both[number % 2 :][:1]  # to make a strategy takes longer than to ask by it
            for mode in modes:
                count = -(-each // len(modes))
                _try(operation.as_strategy(generation_mode=mode), session, headers, checks, asked, count)
        while sum(count for status, count in asked.items() if status > 0) < cases:
            whole = operations[sum(asked.values()) % len(operations)]
            _try(whole.as_strategy(generation_mode=GenerationMode.POSITIVE), session, headers, checks, asked, 20)
        return asked


def _try(
    strategy: Any, session: Any, headers: dict[str, str], checks: list[Any], asked: Counter[int], count: int
) -> None:
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=strategy)
    def one(case: Any) -> None:
        response = case.call(session=session, headers=headers, timeout=30)
        asked[response.status_code] += 1
        try:
            case.validate_response(response, checks=checks)
        except BaseExceptionGroup as failures:
            asked[-1] += 1
            print(*(f"{case.method} {case.path}: {failure}" for failure in failures.exceptions), sep="\n")

    try:
        one()
    except hypothesis.errors.Unsatisfiable:
        return  # nothing wrong can be sent to a route that takes nothing


def _sound(found: Any) -> Any:
    """The operation, or an error that says what is wrong with the document."""
    return found.ok()
