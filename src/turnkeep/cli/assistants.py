"""`turnkeep assistants`: the profiles of who answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from turnkeep.assistant_input import assistant_fields
from turnkeep.assistants import Assistant, Assistants
from turnkeep.auth.audit_trail import Act
from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Tenant, Yes
from turnkeep.cli.assistant_import import import_assistants
from turnkeep.cli.audit import report
from turnkeep.cli.findings import today
from turnkeep.clock import SystemClock
from turnkeep.pricing.catalog import Catalog
from turnkeep.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The profiles of who answers.")


app.command("import")(import_assistants)

InBackground = Annotated[
    bool | None,
    typer.Option(
        "--background/--no-background", help="Let OpenAI go on when we cannot, so that nothing is paid twice."
    ),
]

ShowReasoning = Annotated[
    bool | None,
    typer.Option("--show-reasoning/--no-show-reasoning", help="Let people see what the model thinks."),
]


def _object(text: str | dict[str, Any]) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{text!r} is no JSON object")
    return value


def _named_tools(words: list[str]) -> list[str | dict[str, Any]]:
    """Names as they are; what begins as an object is one: a tool that runs at the provider."""
    return [_object(one) if one.startswith("{") else one for one in words]


AssistantId = Annotated[str, typer.Argument(metavar="ID", help="asst_… id.")]
AssistantName = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="For people.")]
AssistantModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model that answers.")]
Instructions = Annotated[str | None, typer.Option("--instructions", metavar="TEXT", help="What it is told first.")]
AssistantTool = Annotated[
    list[str] | None,
    typer.Option("--tool", metavar="NAME", help="A tool it may call, or a provider's as JSON; all without."),
]
Fallback = Annotated[
    list[str] | None, typer.Option("--fallback", metavar="MODEL", help="Asked when the model cannot answer.")
]
Parameters = Annotated[
    dict[str, Any] | None,
    typer.Option("--parameters", metavar="JSON", parser=_object, help='As {"temperature": 0.2}.'),
]


@app.command()
def create(  # noqa: PLR0913 - the options of a verb
    *,
    name: AssistantName = None,
    model: AssistantModel = None,
    instructions: Instructions = None,
    tool: AssistantTool = None,
    fallback: Fallback = None,
    parameters: Parameters = None,
    background: InBackground = None,
    show_reasoning: ShowReasoning = None,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Make an assistant and print its id. The first one answers from now on."""
    values = _fields(
        name=name,
        model=model,
        instructions=instructions,
        tools=_named_tools(tool or []) or None,
        fallbacks=fallback or None,
        parameters=parameters,
        background=background,
        show_reasoning=show_reasoning,
    )
    settings = context.settings()
    profile = asyncio.run(_create(settings, tenant, values))
    if as_json:
        output.emit(profile.to_json())
        return
    output.say(f"Assistant created: {profile.assistant_id}")
    output.say("Save it in your .env file as:")
    output.say(f"OPENAI_ASSISTANT_ID={profile.assistant_id}")
    _warn(settings, profile)


async def _create(settings: Settings, tenant: str, values: dict[str, Any]) -> Assistant:
    async with _open(settings, create=True) as assistants:
        profile = await assistants.create(tenant, values, now=SystemClock().now())
        if await assistants.default(tenant) is None:
            await assistants.use(tenant, profile.assistant_id)
        await _report(assistants, "assistant_created", tenant=tenant, assistant_id=profile.assistant_id, fields=values)
        return profile


@app.command("list")
def list_assistants(*, tenant: Tenant = "default", as_json: JsonOption = False) -> None:
    """List assistants; the one with a star answers where no other is chosen."""
    profiles, default = asyncio.run(_list(context.settings(), tenant))
    if as_json:
        for one in profiles:
            output.emit(one.to_json() | {"default": one.assistant_id == default})
        return
    rows = [
        ("*" if one.assistant_id == default else "", one.assistant_id, one.name, one.model, one.version, _tools(one))
        for one in profiles
    ]
    output.table(("", "ID", "NAME", "MODEL", "VERSION", "TOOLS"), rows, empty="no assistants yet")


async def _list(settings: Settings, tenant: str) -> tuple[list[Assistant], str | None]:
    async with _open(settings) as assistants:
        default = await assistants.default(tenant)
        return await assistants.list(tenant), default.assistant_id if default else None


@app.command()
def show(assistant: AssistantId, *, tenant: Tenant = "default", as_json: JsonOption = False) -> None:
    """Show an assistant."""
    settings = context.settings()
    profile = asyncio.run(_get(settings, tenant, assistant))
    if as_json:
        output.emit(profile.to_json())
        return
    output.facts(
        [
            ("id", profile.assistant_id),
            ("name", profile.name),
            ("model", profile.model),
            ("fallbacks", ", ".join(profile.fallbacks) or None),
            ("tools", _tools(profile)),
            ("parameters", json.dumps(dict(profile.parameters)) if profile.parameters else None),
            ("background", "yes" if profile.background else None),
            ("reasoning", "shown" if profile.show_reasoning else None),
            ("version", profile.version),
            ("created", output.moment(profile.created_at)),
            ("instructions", profile.instructions),
        ]
    )
    _warn(settings, profile)


async def _get(settings: Settings, tenant: str, assistant_id: str) -> Assistant:
    async with _open(settings) as assistants:
        return await assistants.get(tenant, assistant_id)


@app.command()
def use(assistant: AssistantId, *, tenant: Tenant = "default", as_json: JsonOption = False) -> None:
    """Let an assistant answer where no other is chosen."""
    settings = context.settings()
    profile = asyncio.run(_use(settings, tenant, assistant))
    if as_json:
        output.emit(profile.to_json())
        return
    output.say(f"{profile.assistant_id} answers from now on")
    if settings.openai_assistant_id not in (None, assistant):
        output.note(f"OPENAI_ASSISTANT_ID={settings.openai_assistant_id} counts again at the next start")


async def _use(settings: Settings, tenant: str, assistant_id: str) -> Assistant:
    async with _open(settings) as assistants:
        profile = await assistants.use(tenant, assistant_id)
        await _report(assistants, "assistant_used", tenant=tenant, assistant_id=assistant_id)
        return profile


@app.command()
def update(  # noqa: PLR0913 - the options of a verb
    assistant: AssistantId,
    *,
    name: AssistantName = None,
    model: AssistantModel = None,
    instructions: Instructions = None,
    tool: AssistantTool = None,
    fallback: Fallback = None,
    parameters: Parameters = None,
    background: InBackground = None,
    show_reasoning: ShowReasoning = None,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Change what is given; the version rises by one."""
    values = _fields(
        name=name,
        model=model,
        instructions=instructions,
        tools=_named_tools(tool or []) or None,
        fallbacks=fallback or None,
        parameters=parameters,
        background=background,
        show_reasoning=show_reasoning,
    )
    if not values:
        raise output.NotGiven("nothing to change was given; see turnkeep assistants update --help")
    settings = context.settings()
    profile = asyncio.run(_update(settings, tenant, assistant, values=values))
    if as_json:
        output.emit(profile.to_json())
        return
    output.say(f"{profile.assistant_id} has version {profile.version} now")
    _warn(settings, profile)


async def _update(settings: Settings, tenant: str, assistant_id: str, *, values: dict[str, Any]) -> Assistant:
    async with _open(settings) as assistants:
        profile = await assistants.change(tenant, assistant_id, values)
        await _report(assistants, "assistant_changed", tenant=tenant, assistant_id=assistant_id, fields=values)
        return profile


@app.command()
def delete(
    assistant: AssistantId, *, yes: Yes = False, tenant: Tenant = "default", as_json: JsonOption = False
) -> None:
    """Delete an assistant. Threads that had chosen it are answered by the default one."""
    settings = context.settings()
    asyncio.run(_delete(settings, tenant, assistant, yes=yes))
    if as_json:
        output.emit({"deleted": assistant})
    else:
        output.say(f"Assistant deleted: {assistant}")


async def _delete(settings: Settings, tenant: str, assistant_id: str, *, yes: bool) -> None:
    async with _open(settings) as assistants:
        profile = await assistants.get(tenant, assistant_id)
        default = await assistants.default(tenant)
        answers = default is not None and default.assistant_id == assistant_id
        hint = " it answers now; a new one is made at the next start" if answers else ""
        output.confirm(f"delete {profile.name} {assistant_id} from {context.store_location(settings)}?{hint}", yes=yes)
        await assistants.delete(tenant, assistant_id)
        await _report(assistants, "assistant_deleted", tenant=tenant, assistant_id=assistant_id)


@asynccontextmanager
async def _open(settings: Settings, *, create: bool = False) -> AsyncIterator[Assistants]:
    model = settings.model or Catalog.load(settings.price_file).default
    async with context.attach_store(settings, create=create) as store:
        yield Assistants(store, model=model, instructions=settings.instructions)


async def _report(
    assistants: Assistants, event: Act, *, tenant: str, assistant_id: str, fields: Iterable[str] = ()
) -> None:
    about = {"assistant": assistant_id, "fields": ",".join(sorted(fields))}
    await report(assistants.registry, event, tenant=tenant, **about)


def _fields(**values: Any) -> dict[str, Any]:
    return assistant_fields({name: value for name, value in values.items() if value is not None})


def _tools(assistant: Assistant) -> str:
    if assistant.tools is None:
        return "all"
    return ", ".join(tool if isinstance(tool, str) else str(tool.get("type")) for tool in assistant.tools)


def _warn(settings: Settings, assistant: Assistant) -> None:
    for warning in Catalog.load(settings.price_file).check(assistant.model, today()):
        output.note(f"warning: {warning}", style="yellow")
