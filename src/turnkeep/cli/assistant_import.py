"""`turnkeep assistants import`: assistants of OpenAI's Assistants API, as its list was saved."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from turnkeep.assistant_input import assistant_fields
from turnkeep.assistants import FUNCTION, Assistants
from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Tenant
from turnkeep.cli.audit import report
from turnkeep.clock import SystemClock
from turnkeep.errors import Conflict, InvalidMessage
from turnkeep.inputs import MAX_NAME, optional_text
from turnkeep.lean_dataclass import dataclass
from turnkeep.pricing.catalog import Catalog
from turnkeep.settings import Settings


@dataclass(frozen=True, slots=True)
class AssistantImport:
    """An assistant in our words. `left_out`: its tools that ran at OpenAI."""

    assistant_id: str | None
    fields: dict[str, Any]
    left_out: tuple[str, ...]


def import_assistants(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of GET /v1/assistants; - is stdin.")],
    *,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Take over assistants from OpenAI, under their ids. Those that are here already stay as they are."""
    imports = [_read(one) for one in _objects(_text(path))]
    outcomes = asyncio.run(_import(context.settings(), tenant, imports))
    for one, assistant_id in zip(imports, outcomes, strict=True):
        if as_json:
            output.emit({"id": assistant_id or one.assistant_id, "imported": assistant_id is not None,
                         "left_out": list(one.left_out)})  # fmt: skip
            continue
        output.say(f"{assistant_id} taken over" if assistant_id else f"{one.assistant_id} is here already")
        if one.left_out:
            output.note(f"{', '.join(one.left_out)} ran at OpenAI: give it a tool of your own in place of it")


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidMessage(f"{path} cannot be read as text: {error}") from None


def _objects(text: str) -> list[Any]:
    """Of a list as the API gives it, of an array, of a single one, or of lines with one each."""
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise InvalidMessage(f"this is no JSON of assistants: {error}") from None
    if isinstance(value, Mapping):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    objects = value if isinstance(value, list) else [value]
    if not objects:
        raise InvalidMessage("there is no assistant in it: save what GET /v1/assistants gives")
    return objects


def _read(value: object) -> AssistantImport:
    if not isinstance(value, Mapping):
        raise InvalidMessage("an assistant must be an object, as GET /v1/assistants gives it")
    tools = [tool for tool in value.get("tools") or () if isinstance(tool, Mapping)]
    functions = [
        {"type": FUNCTION, **dict(tool[FUNCTION])} for tool in tools if isinstance(tool.get(FUNCTION), Mapping)
    ]
    fields: dict[str, Any] = {"tools": functions}
    fields |= {name: value[name] for name in ("model", "name", "instructions", "metadata") if value.get(name)}
    parameters = {name: value[name] for name in ("temperature", "top_p") if value.get(name) is not None}
    if isinstance(value.get("response_format"), Mapping):
        parameters["response_format"] = value["response_format"]
    if value.get("reasoning_effort"):
        parameters["reasoning"] = {"effort": value["reasoning_effort"]}
    if parameters:
        fields["parameters"] = parameters
    left_out = tuple(str(tool.get("type")) for tool in tools if not isinstance(tool.get(FUNCTION), Mapping))
    return AssistantImport(optional_text(value, "id", MAX_NAME), assistant_fields(fields), left_out)


async def _import(settings: Settings, tenant: str, imports: list[AssistantImport]) -> list[str | None]:
    model = settings.model or Catalog.load(settings.price_file).default
    outcomes: list[str | None] = []
    async with context.attach_store(settings, create=True) as store:
        assistants = Assistants(store, model=model, instructions=settings.instructions)
        for one in imports:
            try:
                assistant = await assistants.create(
                    tenant, one.fields, now=SystemClock().now(), assistant_id=one.assistant_id
                )
            except Conflict:
                outcomes.append(None)
                continue
            about = {"assistant": assistant.assistant_id, "fields": ",".join(sorted(one.fields))}
            await report(store, "assistant_created", tenant=tenant, **about)
            outcomes.append(assistant.assistant_id)
    return outcomes
