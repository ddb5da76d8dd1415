"""`turnkeep send CHANNEL TEXT`: one message, its streamed answer, and then the end.

It goes to the server of `TURNKEEP_URL`, else to a running one that uses the same store, else it
is answered here.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import typer

from turnkeep.cli import context, output, server_note
from turnkeep.cli.answer_output import AnswerPrinter, JsonPrinter, TestMessagePrinter
from turnkeep.cli.arguments import Channel, JsonOption, duration
from turnkeep.cli.exit_codes import INTERRUPTED
from turnkeep.cli.message_sender import Ask, from_server, in_this_process
from turnkeep.errors import NoAnswer, NotAllowed
from turnkeep.settings import Settings
from turnkeep.wire import Frame

app = typer.Typer(add_completion=False)


@app.command()
def send(  # noqa: PLR0913 - the options of a verb
    channel: Channel,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; - reads it from stdin.")],
    *,
    message_id: Annotated[
        str | None, typer.Option("--message-id", metavar="ID", help="The same id is never answered twice.")
    ] = None,
    instructions: Annotated[
        str | None, typer.Option("--instructions", metavar="TEXT", help="Instructions for this answer.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Show what happens besides, on stderr.")] = False,
    here: Annotated[bool, typer.Option("--here", help="Answer in this process, even if a server runs.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="TIME", parser=duration, help="How long to wait for the answer.")
    ] = "10m",  # type: ignore[assignment]  # is parsed like any other
    as_test: Annotated[bool, typer.Option("--as-test", help="Speak as --test-message does.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a message, stream the answer, and end when it is complete. Exit code 1 if it failed."""
    settings = context.settings()
    context.quiet(settings)
    prefix = "test_msg_" if as_test else "msg_"
    ask_id = message_id or prefix + secrets.token_hex(4 if as_test else 12)
    ask = Ask(channel, sys.stdin.read() if text == "-" else text, ask_id, instructions)
    kind = JsonPrinter if as_json else TestMessagePrinter if as_test else AnswerPrinter
    printer = kind(ask_id, status=status)
    try:
        code = asyncio.run(_tell(settings, ask, printer, here=here, timeout=timeout))
    except KeyboardInterrupt:
        output.note(f"stopped listening; message {ask_id} is kept, see `turnkeep trace {ask_id}`")
        code = INTERRUPTED
    raise typer.Exit(code)


async def _tell(settings: Settings, ask: Ask, printer: AnswerPrinter, *, here: bool, timeout: float) -> int:
    waiting = asyncio.timeout(timeout)
    try:
        async with waiting, aclosing(_frames(settings, ask, here=here)) as frames:
            async for frame in frames:
                if (code := printer.show(frame)) is not None:
                    return code
    except TimeoutError:
        # The timeout of something else, such as a socket: not ours to explain.
        if not waiting.expired():
            raise
    trace = f"turnkeep trace {ask.message_id}"
    raise NoAnswer(f"no answer within {output.span(timeout)}; the message is kept, see `{trace}`")


async def _frames(settings: Settings, ask: Ask, *, here: bool) -> AsyncGenerator[Frame, None]:
    """From the server that is set or found; from this process where there is none that lets us in."""
    server = None if here else settings.url or server_note.find(settings)
    if server is not None:
        try:
            async with aclosing(from_server(server, ask)) as frames:
                async for frame in frames:
                    yield frame
            return
        except NotAllowed:
            # A server that was named is meant, and its refusal is the answer. One that was merely
            # found may want a credential, and the store is at hand.
            if settings.url is not None:
                raise
    if settings.uses_simulator:
        output.note("the built-in simulator answers (set OPENAI_API_KEY to ask a model)")
    async with aclosing(in_this_process(settings, ask)) as frames:
        async for frame in frames:
            yield frame
