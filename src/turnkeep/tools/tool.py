"""What a tool is: a function that the model may call, with what it may do and how long it may take.

`@tool` makes one from a plain Python function:

    @tool(effect="pure")
    def opening_hours(city: str) -> dict[str, str]:
        \"\"\"When our office in a city is open.\"\"\"
        return {"city": city, "hours": "9-17"}

The schema comes from the type hints, the description from the docstring. A result that is no text is told as JSON.
What a `ToolError` says is told to the model; of any other exception only the type, because its
words may hold secrets.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any, Literal, overload

from pydantic import TypeAdapter

from turnkeep.errors import ConfigurationError, ToolFailed
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import SHOWINGS, Showing
from turnkeep.spelling import strangers_sentence
from turnkeep.tools import thread_pool
from turnkeep.tools.argument_schema import ArgumentSchema
from turnkeep.tools.schema import Accept, Schema, Signature, strict_form

Effect = Literal["pure", "idempotent", "effect"]
"""What a repeated call does: nothing; nothing more, under the same key; its effect again."""

TIMEOUT = 30.0
OUTPUT_CAP = 64 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)

DEFINITION = ("type", "function", "handler")
"""What a definition may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """For whom and under which key a call runs.

    A tool gets it in the parameter it annotates with this type.

    `idempotency_key` is the same at every repetition of one call: pass it on to a service that
    takes such keys. `cancellation` is set when nobody waits for the result any more; a function in
    a thread asks `cancellation.is_set()`.
    """

    tenant: str = "default"
    channel: str = ""
    thread_id: str = ""
    run_id: str = ""
    call_id: str = ""
    idempotency_key: str = ""
    cancellation: asyncio.Event = field(default_factory=asyncio.Event)


RunTool = Callable[[Mapping[str, Any], ToolContext], Awaitable[str]]
Approval = bool | Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Spec:
    """What the model is told of a tool."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. Immutable; checked when it is made.

    `run` gets arguments that `accept` has let through. `timeout` is in seconds, `output_cap` in
    bytes. A `client_side` tool has no `run`: its calls are held until somebody submits the output.
    `self_approval`: a call that needs approval may be approved by whoever sent the messages that
    led to it; else by others alone. `show`: what people who follow the conversation see of a call
    ("name", "arguments", "all"); whoever decides about it sees its arguments in any case.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: RunTool | None = None
    effect: Effect = "effect"
    timeout: float = TIMEOUT
    output_cap: int = OUTPUT_CAP
    needs_approval: Approval = False
    self_approval: bool = False
    client_side: bool = False
    show: Showing = "name"
    strict: bool = False
    accept: Accept | None = None
    function: Callable[..., Any] | None = None
    """The decorated function: a tool can be called like it."""
    _schema: ArgumentSchema | None = field(init=False, repr=False, compare=False, default=None)
    """What checks the arguments of a tool that has no `accept`."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"{self.name[:80]!r} is no tool name; use 1 to 64 of A-Z a-z 0-9 _ -")
        if self.effect not in ("pure", "idempotent", "effect"):
            raise ConfigurationError(f"tool {self.name!r}: effect {self.effect!r} is not pure, idempotent or effect")
        if self.show not in SHOWINGS:
            raise ConfigurationError(f"tool {self.name!r}: show {self.show!r} is not name, arguments or all")
        if self.timeout <= 0 or self.output_cap < 256:
            raise ConfigurationError(f"tool {self.name!r}: timeout must be above 0 and output_cap at least 256 bytes")
        if self.parameters.get("type") != "object":
            raise ConfigurationError(f"tool {self.name!r}: parameters must be a JSON schema of type object")
        if self.client_side == (self.run is not None):
            raise ConfigurationError(f"tool {self.name!r} needs a function, or client_side=True and none")
        if self.accept is None:
            try:
                # frozen, but made once here: a schema is compiled with the tool, not with each call
                object.__setattr__(self, "_schema", ArgumentSchema(self.parameters))
            except ConfigurationError as error:
                raise ConfigurationError(f"tool {self.name!r}: {error}") from None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            raise TypeError(f"tool {self.name!r} was not made from a function")
        return self.function(*args, **kwargs)

    def spec(self) -> Spec:
        return Spec(self.name, self.description, self.parameters, self.strict)

    def check_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as `run` takes them. Raises `BadArguments`."""
        if self.accept is not None:
            return self.accept(arguments)
        return self._schema.fitting(arguments) if self._schema else dict(arguments)

    def asks_first(self, arguments: Mapping[str, Any]) -> bool:
        """Whether somebody has to approve this call. A rule that fails asks."""
        if isinstance(self.needs_approval, bool):
            return self.needs_approval
        try:
            return bool(self.needs_approval(arguments))
        except Exception:  # whatever the rule stumbles over, a person can still decide
            return True


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect = "effect",
    timeout: float = TIMEOUT,
    output_cap: int = OUTPUT_CAP,
    needs_approval: Approval = False,
    self_approval: bool = False,
    client_side: bool = False,
    show: Showing = "name",
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a plain function, async or not, a tool. Functions that are not async run in a thread.

    With `client_side=True` the function only describes the call; its body never runs.
    """
    if function is None:
        return functools.partial(_from_function, **options)
    return _from_function(function, **options)


def _from_function(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None, **options: Any
) -> Tool:
    check_function(function, f"tool {name or getattr(function, '__name__', function)!r}")
    signature = Signature(function, ToolContext)
    strict = strict_form(signature.parameters)
    about = description or signature.description
    label = name or str(getattr(function, "__name__", ""))
    if not about:
        raise ConfigurationError(f"tool {label!r} has no description; write a docstring, it is what the model goes by")
    return Tool(
        name=label,
        description=about,
        parameters=strict or signature.parameters,
        strict=strict is not None,
        accept=signature.accept,
        run=None if options.get("client_side") else _runner(function, signature.context),
        function=function,
        **options,
    )


def _runner(function: Callable[..., Any], context_name: str | None) -> RunTool:
    async def run(arguments: Mapping[str, Any], context: ToolContext) -> str:
        keywords = {**arguments, context_name: context} if context_name else dict(arguments)
        return as_text(await invoke(function, **keywords))

    return run


async def invoke(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """The result of a function: awaited if it is async, from a thread if it is not."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(*args, **kwargs)
    result = await thread_pool.shared_threads.run(functools.partial(function, *args, **kwargs))
    return await result if inspect.isawaitable(result) else result


def as_text(result: Any) -> str:
    """Text as it is, bytes as UTF-8, all else as JSON (pydantic models, dataclasses, dates too)."""
    if isinstance(result, str):
        return result
    if isinstance(result, bytes):
        return result.decode("utf-8", "replace")
    try:
        return json.dumps(_ANYTHING.dump_python(result, mode="json"), ensure_ascii=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ToolFailed(f"the tool gave a {type(result).__name__}, which has no JSON form") from error


def from_dict(definition: Mapping[str, Any], **options: Any) -> Tool:
    """A tool in the form ``{"type": "function", "function": {"name", "description", "parameters"},
    "handler": …}``.

    `handler` is called with one dict, async or not. Without a handler the tool is client-side.
    Raises `ConfigurationError`, also for a handler that could not be called so.
    """
    if strangers := [str(name) for name in definition if name not in DEFINITION]:
        raise ConfigurationError(strangers_sentence("a tool definition", strangers, DEFINITION))
    function = definition.get("function")
    if definition.get("type") != "function" or not isinstance(function, Mapping) or "name" not in function:
        raise ConfigurationError('a tool definition needs "type": "function" and "function" with a "name"')
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        raise ConfigurationError(f'the "parameters" of {function["name"]!r} must be a JSON schema, an object')
    parameters: Schema = dict(schema)
    handler = definition.get("handler")
    if handler is not None:
        what = f"the handler of tool {function['name']!r}"
        check_function(handler, what)
        check_parameters(handler, what, "def handler(arguments: dict): …", {})
    settings = {"client_side": handler is None, **options}
    return Tool(
        name=str(function["name"]),
        description=str(function.get("description") or ""),
        parameters=parameters,
        strict=bool(function.get("strict", False)),
        run=None if handler is None else _handler(handler),
        **settings,
    )


def check_function(function: object, what: str) -> None:
    """Raises `ConfigurationError` here, where it can be mended: else every call would fail, and only
    the model would be told.
    """
    if not callable(function):
        raise ConfigurationError(f"{what} is of type {type(function).__name__}, it must be a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{what} yields, it must return its result")


def check_parameters(function: Callable[..., Any], what: str, form: str, *arguments: object) -> None:
    """Whether it can be called with these arguments. Raises `ConfigurationError` with the form."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        raise ConfigurationError(f"{what} is called with other arguments than it takes: write {form}") from None
    except ValueError:
        # What is written in C often has no signature that could be read.
        return


def _handler(handler: Callable[[dict[str, Any]], Any]) -> RunTool:
    async def run(arguments: Mapping[str, Any], _: ToolContext) -> str:
        return as_text(await invoke(handler, dict(arguments)))

    return run
