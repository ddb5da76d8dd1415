"""`turnkeep demo`: bursts of messages that become turns, in a house that is gone afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.events import Event
from turnkeep.lean_dataclass import dataclass
from turnkeep.queue import AssistantMessageQueue
from turnkeep.settings import Settings

app = typer.Typer(add_completion=False)

WINDOW = 1.0

NOBODY = ("openai_api_key", "openai_base_url", "openai_assistant_id", "anthropic_api_key", "anthropic_base_url")
"""What must not be set, so that the simulator answers."""


@dataclass(frozen=True, slots=True)
class Line:
    """What somebody says, so many seconds after what they said before; or while they are being
    answered.
    """

    who: str
    text: str
    pause: float = 0.0
    during_answer: bool = False


SCRIPT = (
    Line("anna", "Hello!"),
    Line("anna", "I ordered a lamp last week", 0.4),
    Line("anna", "and it still has not come.", 0.4),
    Line("anna", "Can you look?", 0.4),
    Line("ben", "Do you open on Sunday?", 0.7),
    Line("anna", "Oh wait, the parcel is here!", during_answer=True),
    Line("anna", "Thank you anyway.", 0.4),
)


@app.command()
def demo(
    *,
    speed: Annotated[float, typer.Option("--speed", metavar="N", min=0.1, max=20, help="2 is twice as fast.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Play a conversation of two people and show live how their messages become turns."""
    with tempfile.TemporaryDirectory(prefix="turnkeep-demo-") as directory:
        settings = context.settings(
            store=f"sqlite:{Path(directory) / 'turnkeep.db'}", window=WINDOW / speed, max_wait=8.0, drain=1.0
        ).model_copy(update=dict.fromkeys(NOBODY))
        context.quiet(settings)
        asyncio.run(_Play(settings, speed, as_json=as_json).play())


@dataclass(slots=True)
class _Person:
    """One of those who talk: what is not answered yet, and whether an answer is on its way."""

    name: str
    lines: Sequence[Line]
    open: set[str] = field(default_factory=set)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    said_all: bool = False


class _Play:
    """The conversation, and its commentary."""

    def __init__(self, settings: Settings, speed: float, *, as_json: bool) -> None:
        self._settings = settings
        self._speed = speed
        self._as_json = as_json
        self._began = 0.0
        self._turns = 0

    async def play(self) -> None:
        names = list(dict.fromkeys(line.who for line in SCRIPT))
        queue = AssistantMessageQueue.from_settings(self._settings)
        queue.start_worker()
        async with queue:
            if not self._as_json:
                output.say("a house in a temporary directory, answered by the simulator", style="dim")
                output.say(f"a thread waits {self._settings.window:.1f} s for more before it is answered", style="dim")
                output.say()
            self._began = asyncio.get_running_loop().time()
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for name in names:
                    person = _Person(name, [line for line in SCRIPT if line.who == name])
                    group.create_task(self._watch(queue, person))
        self._sum_up(len(names))

    async def _watch(self, queue: AssistantMessageQueue, person: _Person) -> None:
        """Follow one channel until everything that was said there is answered."""
        # Listen first, then talk: what happens in between would be missed.
        async with queue.events(person.name) as events, asyncio.TaskGroup() as group:
            group.create_task(self._talk(queue, person))
            async for event in events:
                self._comment(person, event)
                if event.is_final:
                    person.open -= set(event.message_ids)
                    if person.said_all and not person.open:
                        return

    async def _talk(self, queue: AssistantMessageQueue, person: _Person) -> None:
        for number, line in enumerate(person.lines):
            if line.during_answer:
                await person.answering.wait()
            await asyncio.sleep(line.pause / self._speed)
            message_id = f"{person.name}-{number}"
            # Before it is sent: its answer may come before the call returns.
            person.open.add(message_id)
            person.said_all = line is person.lines[-1]
            await queue.add_message_to_thread(person.name, line.text, message_id=message_id)

    def _comment(self, person: _Person, event: Event) -> None:
        match event.kind:
            case "accepted":
                self._tell(person, "says", f"“{event.text}”", text=event.text)
            case "started":
                self._turns += 1
                what = output.count(len(event.message_ids), "message")
                self._tell(person, "turn", f"one turn answers {what}", messages=len(event.message_ids))
            case "delta":
                person.answering.set()
            case "completed":
                person.answering.clear()
                self._tell(person, "answer", f"“{event.text}”", text=event.text)

    def _tell(self, person: _Person, what: str, sentence: str, **facts: Any) -> None:
        at = asyncio.get_running_loop().time() - self._began
        if self._as_json:
            output.emit({"at": round(at, 3), "who": person.name, "what": what, **facts})
            return
        style = {"says": "", "turn": "bold cyan", "answer": "green"}[what]
        output.say(f"{at:6.2f} s  {person.name:<6} {what:<7} {sentence}", style=style)

    def _sum_up(self, people: int) -> None:
        if self._as_json:
            output.emit({"what": "end", "messages": len(SCRIPT), "people": people, "turns": self._turns})
            return
        output.say()
        messages = output.count(len(SCRIPT), "message")
        output.say(f"{messages} of {people} people, {self._turns} turns; what was said during an answer came next")
