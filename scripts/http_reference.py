"""Write docs/reference/http.md from the table of routes: `python scripts/http_reference.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from turnkeep.doors.http.endpoint import HttpEndpoint
from turnkeep.doors.http.routes import ENDPOINTS
from turnkeep.doors.http.schemas import SCHEMAS
from turnkeep.doors.socket.socket_actions import ACTIONS

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "http.md"
HEAD = """# HTTP and socket actions

The same to try out: `/api/docs`; for machines: `/api/openapi.json` (OpenAPI 3.1). How to come in:
[Put it on the internet](../how-to/go-public.md); where nobody is asked for credentials, everybody may do everything.
Errors are `{"error": {"code", "message"}}`, with `retryable` and `retry_after` where trying again may help:
[Errors](errors.md). This page is made by `scripts/http_reference.py`; a test compares it.

## Routes

A name in a path is percent-encoded, its slashes too (`%2F`).

A scope on a path without `{channel}` asks for a credential that reaches the whole tenant; *any* is any valid one,
*none* is none. `/healthz` (the process lives) and `/readyz` (the store can be written; `simulated`: no model
is set) are for load balancers, `/` and `/dashboard` are pages, `/ws` is the socket.

| route | scope | body | answers | |
|---|---|---|---|---|
"""
SOCKET = """
## Socket actions

A frame is `{"action": …, "channel": …}`; one without an action is a message.

| action | scope |
|---|---|
"""
BODIES = """
## Bodies

What may be left out is in brackets.

| name | fields |
|---|---|
"""


def page() -> str:
    """The whole page."""
    routes = "\n".join(row(endpoint) for endpoint in ENDPOINTS)
    actions = "\n".join(f"| `{name}` | {action.scope or 'any'} |" for name, action in sorted(ACTIONS.items()))
    bodies = "\n".join(f"| {name} | {fields(schema)} |" for name, schema in SCHEMAS.items() if fields(schema))
    return f"{HEAD}{routes}\n{SOCKET}{actions}\n{BODIES}{bodies}\n"


def row(endpoint: HttpEndpoint) -> str:
    scope = "none" if endpoint.public else endpoint.scope or "any"
    body = f"[{endpoint.body}]" if endpoint.body and endpoint.body_may_be_empty else endpoint.body or ""
    answers = ", ".join(f"{status} {name or ''}".strip() for status, name in endpoint.answers.items())
    query = "".join(f" `?{name}=` {told[0].lower() + told[1:]}" for name, told in endpoint.query.items())
    return f"| `{endpoint.method} {endpoint.path}` | {scope} | {body} | {answers} | {endpoint.summary}{query} |"


def fields(schema: dict[str, Any]) -> str:
    """The names of an object's fields."""
    required = schema.get("required", ())
    names = schema.get("properties", {})
    return ", ".join(f"`{name}`" if name in required else f"[`{name}`]" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page())
