"""The journal of a run: what has happened so far, so that another attempt
continues instead of repeating.

Records are plain JSON, in five types:

* ``step``: one finished model call with its items, usage and the text it showed;
* ``started``: tool calls that begin now (written before they begin);
* ``output``: what a call gave;
* ``response``: the provider works out a response in the background, which outlives us (None: it is not there any more);
* ``steered``: messages that were taken into the run at a step boundary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, field
from typing import Literal, TypeVar

from turnkeep.backoff import Backoff
from turnkeep.errors import StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import CallItem, Item, Message, OutputItem, UserItem, item_from_json, item_to_json
from turnkeep.store.contract import Store
from turnkeep.store.values import Claim, Record
from turnkeep.usage import Usage

T = TypeVar("T")

SEPARATOR = "\n\n"
"""Stands between the texts of two steps of one answer."""

STORE_PATIENCE = Backoff(delay=0.05, cap=1.0)

Ending = Literal["stop", "calls", "pause", "length", "filter", "refusal"]


@dataclass(frozen=True, slots=True)
class Step:
    """One finished model call."""

    items: tuple[Item, ...]
    text: str
    usage: Usage
    ending: Ending
    model: str


@dataclass(frozen=True, slots=True)
class OpenResponse:
    """A response that the provider works out in the background, and the model that does."""

    response_id: str
    model: str


def user_item(message: Message) -> UserItem:
    """One user item per message: boundaries are kept."""
    arrival, metadata = message.arrival, message.metadata or None
    return UserItem(
        message.content, message.message_id, arrival, message.instructions, metadata, message.user_instructions,
        message.model, message.parameters, message.assistant, message.client_tools, message.assistant_instructions,
    )  # fmt: skip


@dataclass(slots=True)
class Journal:
    """The records of one claim, folded.

    Nothing is believed to have happened before it is written; then it is told.
    """

    store: Store
    claim: Claim
    _: KW_ONLY
    tell: Callable[[Record], None] | None = None
    first_messages: list[UserItem] = field(init=False)
    """The batch without the messages that came in by steering."""
    items: list[Item] = field(init=False, default_factory=list)
    texts: list[str] = field(init=False, default_factory=list)
    usage: Usage = field(init=False, default=Usage())
    steps: int = field(init=False, default=0)
    model: str | None = field(init=False, default=None)
    ending: Ending | None = field(init=False, default=None)
    open_response: OpenResponse | None = field(init=False, default=None)
    """What was asked for in the background and has not become a step yet."""
    started_calls: set[str] = field(init=False, default_factory=set)
    steered_ids: set[str] = field(init=False, default_factory=set)
    _count: int = field(init=False, default=0)
    # tools end in parallel, records are numbered: one at a time, or a number would be missing
    # before the next
    _in_order: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _unwritten: list[Record] = field(init=False, default_factory=list)
    _last_step: tuple[int, Step] | None = field(init=False, default=None)
    """Its number; believed, and not written yet."""

    def __post_init__(self) -> None:
        self.first_messages = [user_item(message) for message in self.claim.messages]
        for record in self.claim.journal:
            self._fold(record)

    @property
    def transcript(self) -> list[Item]:
        """Everything of this run, in order: what a commit adds and a request ends with."""
        return [*self.first_messages, *self.items]

    @property
    def text(self) -> str:
        """What the finished steps have shown."""
        return join_texts(self.texts)

    @property
    def open_calls(self) -> list[CallItem]:
        """Calls without an output, in the order they were asked."""
        closed_ids = {item.call_id for item in self.items if isinstance(item, OutputItem)}
        return [item for item in self.items if isinstance(item, CallItem) and item.call_id not in closed_ids]

    @property
    def is_final(self) -> bool:
        """The model has given its final answer, and nobody has steered since."""
        return self.ending not in (None, "calls", "pause")

    async def write_step(self, step: Step, *, is_last: bool = False) -> None:
        """Write a step. The last one counts at once and is not written: the commit holds the same.
        Where no commit follows, `flush` writes it, or the next record does before itself.
        """
        if not is_last:
            await self._write(_step_record(step))
            return
        # not put into the words of a record: most runs end with it, and nobody ever reads one
        self._last_step = (self._count, step)
        self._count += 1
        self._take_step(step)
        if self.tell is not None:
            self.tell({"n": self._count - 1, **_step_record(step)})

    async def flush(self) -> None:
        """Write the last step, if it is not written: its run is to be gone on with by others."""
        async with self._in_order:
            await self._write_last_step()

    async def write_response(self, response: OpenResponse | None) -> None:
        fields = {} if response is None else {"response_id": response.response_id, "model": response.model}
        await self._write({"type": "response", **fields})

    async def write_started(self, call_ids: Sequence[str]) -> None:
        await self._write({"type": "started", "calls": list(call_ids)})

    async def write_output(self, item: OutputItem) -> None:
        await self._write({"type": "output", "item": item_to_json(item)})

    async def write_steered(self, messages: Sequence[Message]) -> None:
        items = [item_to_json(user_item(m)) for m in messages]
        await self._write({"type": "steered", "steered_through": messages[-1].seq, "items": items})

    async def finish(self) -> None:
        """Write once more what a stop has interrupted: the store may have it already, and then it
        counts.

        A call whose start was being written has not begun.
        """
        for record in list(self._unwritten):
            await self._write_last_step()
            await self._write_next(record)
            if record["type"] == "started":
                self.started_calls -= set(record["calls"])

    async def _write(self, record: Record) -> None:
        # noted before it is written: a stop may fall between the store's act and its reply, and
        # once messages that the store had taken into a run were lost that way
        self._unwritten.append(record)
        async with self._in_order:
            await self._write_last_step()
            await self._write_next(record)

    async def _write_last_step(self) -> None:
        if self._last_step is not None:
            number, step = self._last_step
            entry = {"n": number, **_step_record(step)}
            await retry_until_answered(lambda: self.store.journal(self.claim, [entry]))
            self._last_step = None

    async def _write_next(self, record: Record) -> None:
        # the number makes a repeat harmless
        entry = {"n": self._count, **record}
        await retry_until_answered(lambda: self.store.journal(self.claim, [entry]))
        self._unwritten.remove(record)
        self._believe(entry)

    def _believe(self, entry: Record) -> None:
        self._fold(entry)
        if self.tell is not None:
            self.tell(entry)

    def _fold(self, record: Record) -> None:
        self._count += 1
        match record["type"]:
            case "step":
                self._take_step(_step(record))
            case "response":
                has_one = "response_id" in record
                self.open_response = OpenResponse(record["response_id"], record["model"]) if has_one else None
            case "started":
                self.started_calls |= set(record["calls"])
            case "output":
                self.items.append(item_from_json(record["item"]))
            case "steered":
                items = [item_from_json(item) for item in record["items"]]
                self.items += items
                self.steered_ids |= {
                    item.message_id for item in items if isinstance(item, UserItem) and item.message_id
                }
                self.first_messages = [m for m in self.first_messages if m.message_id not in self.steered_ids]
                # somebody spoke after the answer was final: the run goes on
                self.ending = None

    def _take_step(self, step: Step) -> None:
        self.items += step.items
        self.texts.append(step.text)
        self.usage += step.usage
        self.ending, self.model = step.ending, step.model
        self.steps += 1
        self.open_response = None


def _step_record(step: Step) -> Record:
    return {
        "type": "step",
        "items": [item_to_json(item) for item in step.items],
        "text": step.text,
        "usage": step.usage.to_json(),
        "ending": step.ending,
        "model": step.model,
    }


def _step(record: Record) -> Step:
    items = tuple(item_from_json(item) for item in record["items"])
    return Step(items, record["text"], Usage.from_json(record["usage"]), record["ending"], record["model"])


def join_texts(texts: Sequence[str]) -> str:
    """The texts of several steps as one answer."""
    return SEPARATOR.join(text for text in texts if text)


async def retry_until_answered(act: Callable[[], Awaitable[T]]) -> T:
    """Repeat an operation of the store until it answers. For those that may be repeated: their
    arguments name them, or they have a name (`once`).

    Without an end of its own: the lease of the run that waits here is the limit.
    """
    failures = 0
    while True:
        try:
            return await act()
        except StoreError as error:
            if not error.retryable:
                raise
            failures += 1
        await asyncio.sleep(STORE_PATIENCE.after(failures))
