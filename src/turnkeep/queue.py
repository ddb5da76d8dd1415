"""`AssistantMessageQueue`: what other people's programs call, under the names that they know from
before.

The parts behind these names, and what opens and closes them, are the `Application`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from turnkeep.application import Application
from turnkeep.errors import ConfigurationError, InvalidMessage, NotFound, Rejection, ThreadNotFound, TurnkeepError
from turnkeep.events import Event
from turnkeep.hooks import Hook
from turnkeep.inputs import read_message, read_metadata
from turnkeep.messages import BusyPolicy, Content, Item
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.values import Decision, HeldCall, Receipt, RunRecord, ThreadRecord
from turnkeep.streams import EventStream
from turnkeep.telemetry import SILENT, Meter
from turnkeep.tools.toolbox import Registrable, Toolbox
from turnkeep.windows import PRESETS, Preset, thread_options

WISHES = (
    *("on_busy", "window", "max_wait", "not_before", "flush", "metadata"),
    *("model", "effort", "format", "parameters"),
)

HandleRequiresAction = Callable[[str, str, list[dict[str, Any]]], Awaitable[list[dict[str, Any]] | None]]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Threads being answered, due, and due later; messages answered and dead, ever."""

    active_count: int
    waiting_count: int
    delayed_count: int
    completed_count: int
    failed_count: int

    def to_json(self) -> dict[str, int]:
        """As the HTTP door tells it."""
        return {
            "activeCount": self.active_count,
            "waitingCount": self.waiting_count,
            "delayedCount": self.delayed_count,
            "completedCount": self.completed_count,
            "failedCount": self.failed_count,
        }


class AssistantMessageQueue(Application):
    """A queue of conversations. Constructing opens nothing; the first use does, or `async with`.

    Without `redis_url` it is embedded: an SQLite file in the working directory. Without a key and
    base URL the built-in simulator answers. `lock_duration` is the deadline of a run, in seconds;
    `message_delay` a fixed window: each batch waits that long after its first message. `preset`
    ("web": sliding, 1.5 s and at most 8 s) goes before it, `window` and `max_wait` before both;
    with `adaptive` a channel's window is learned from its rhythm. Settings that are not given come
    from `settings`, or the environment.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        openai_api_key: str | None = None,
        assistant_id: str | None = None,
        *,
        queue_prefix: str = "assistant",
        message_delay: float | None = 10.0,
        max_attempts: int = 3,
        backoff: Mapping[str, Any] | None = None,
        concurrency: int = 5,
        default_instructions: str = "Reply to all messages logically.",
        lock_duration: float = 300.0,
        remove_on_complete: bool = True,
        handle_requires_action: HandleRequiresAction | None = None,
        tools: Iterable[Registrable] = (),
        base_url: str | None = None,
        model: str | None = None,
        store: Store | str | Path | None = None,
        window: float | None = None,
        max_wait: float | None = None,
        preset: Preset | None = None,
        adaptive: bool = False,
        on_busy: BusyPolicy | None = None,
        meter: Meter = SILENT,
        **settings: Any,
    ) -> None:
        values: dict[str, Any] = {
            "redis_url": redis_url,
            "openai_api_key": openai_api_key,
            "openai_assistant_id": assistant_id,
            "openai_base_url": base_url,
            "openai_model": model,
            "queue": queue_prefix,
            "max_attempts": max_attempts,
            "concurrency": concurrency,
            "instructions": default_instructions,
            "run_deadline": lock_duration,
            "on_busy": on_busy,
            # None leaves it to the environment, False would overrule it
            "adaptive": adaptive or None,
            **_window(message_delay, preset, window, max_wait),
            **_backoff(backoff),
            **settings,
        }
        if isinstance(store, str | Path):
            values["store"] = str(store)
        super().__init__(
            Settings.load(**{k: v for k, v in values.items() if v is not None}),
            toolbox=Toolbox(tools, handle_requires_action=handle_requires_action),
            store=None if isinstance(store, str | Path) else store,
            runs_kept=0 if remove_on_complete else 1_000,
            meter=meter,
        )

    @classmethod
    def from_settings(
        cls, settings: Settings, *, toolbox: Toolbox | None = None, store: Store | None = None, meter: Meter = SILENT
    ) -> Self:
        """The queue of a service: everything as set."""
        queue = cls.__new__(cls)
        # past `__init__`, whose defaults are those of the seeds: they would overrule what the environment says
        Application.__init__(queue, settings, toolbox=toolbox, store=store, meter=meter)
        return queue

    async def add_message_to_thread(
        self,
        thread_id: str,
        text: str | Content,
        instructions: str | None = None,
        message_id: str | None = None,
        *,
        tenant: str = "default",
        **wishes: Any,
    ) -> Receipt:
        """Take one message in durably; the thread is created if it is new.

        `wishes`: on_busy, window, max_wait, not_before, flush, metadata; of the answer model,
        effort, format (of a structured answer), parameters. Without a `message_id` one is minted,
        and the receipt says that this send is not idempotent. Raises `Rejection`: `InvalidMessage`
        for what no door takes.
        """
        if strangers := wishes.keys() - WISHES:
            raise InvalidMessage(f"there is no {', '.join(sorted(strangers))[:200]}, known are {', '.join(WISHES)}")
        content = {"content": [part.to_json() for part in text]} if isinstance(text, tuple) else {"message": text}
        body = {**content, "message_id": message_id, "instructions": instructions, **wishes}
        fields = {name: value for name, value in body.items() if value is not None}
        # through the same check as what comes in at a door, so that no caller can store what a door would refuse
        message = read_message(fields, self.address(thread_id, tenant), limit=self.settings.max_message_bytes)
        await self.open()
        if self._hooks:
            await self._hooks.watch(message.address)
        [outcome] = await self.accept([message])
        if isinstance(outcome, Rejection):
            raise outcome
        return outcome

    async def ask(self, thread_id: str, text: str, *, timeout: float = 300.0, **wishes: Any) -> str:
        """Send and wait for the answer that covers this message.

        Raises `Rejection` (`NotFound`: it was withdrawn), TimeoutError, or `TurnkeepError` when it
        is dead.
        """
        await self.open()
        address = self.address(thread_id, wishes.get("tenant", "default"))
        # subscribed before it is sent: an answer may come faster than a subscription
        async with asyncio.timeout(timeout), EventStream(self.hub, self.store, address) as events:
            receipt = await self.add_message_to_thread(thread_id, text, flush=wishes.pop("flush", True), **wishes)
            async for event in events:
                if receipt.message_id in event.message_ids and (event.is_final or event.kind == "withdrawn"):
                    return _answer_in(event)
        raise AssertionError("a stream does not end")

    async def get_queue_status(self) -> QueueStatus:
        await self.open()
        counts = await self.store.counts(queue=self.name)
        return QueueStatus(counts.active, counts.waiting, counts.delayed, counts.completed, counts.failed)

    async def get_thread(self, thread_id: str) -> ThreadRecord:
        """Raises `ThreadNotFound`."""
        await self.open()
        record = await self.store.thread(self.address(thread_id))
        if record is None:
            raise ThreadNotFound(f"there is no thread {thread_id!r}")
        return record

    async def change_thread(
        self,
        thread_id: str,
        *,
        metadata: Mapping[str, str | None] | None = None,
        options: Mapping[str, Any] | None = None,
        assistant: str | None = None,
        tenant: str = "default",
        once: str | None = None,
    ) -> ThreadRecord:
        """Change what is given; None as a value of `metadata` removes it.

        `options` are all that the thread has of its own from now on: on_busy, window, max_wait, or
        a preset. Raises `ThreadNotFound`, `NotFound`, `InvalidMessage`.
        """
        await self.open()
        changes: dict[str, Any] = {} if metadata is None else {"metadata": read_metadata(metadata)}
        if options is not None:
            changes["options"] = thread_options(options)
        if assistant is not None:
            changes["assistant"] = (await self.assistants.get(tenant, assistant)).assistant_id
        return await self.store.update(self.address(thread_id, tenant), changes, once=once)

    async def list_messages(self, thread_id: str, *, limit: int | None = None) -> list[Item]:
        """The transcript, oldest first; the newest whole turns of at most `limit` entries."""
        if limit is not None and limit < 0:
            raise InvalidMessage(f"limit is {limit}, use a number from 0 on or leave it out")
        await self.open()
        history = await self.store.history(self.address(thread_id), items=limit)
        return [entry.item for entry in history.entries]

    async def create_message(self, thread_id: str, text: str, *, message_id: str | None = None) -> Receipt:
        """Add a message that waits until `create_run` (or another message's window) ends its wait."""
        # longer than anybody waits: the store knows no message without a window, `create_run` ends
        # this one
        return await self.add_message_to_thread(
            thread_id, text, message_id=message_id, window=3600.0, max_wait=86_400.0
        )

    async def create_run(self, thread_id: str, *, once: str | None = None) -> bool:
        """Answer what waits now. False if nothing waits."""
        await self.open()
        return await self.store.flush(self.address(thread_id), once=once)

    async def list_runs(self, thread_id: str) -> list[RunRecord]:
        await self.open()
        return await self.store.runs(self.address(thread_id))

    async def cancel_run(self, thread_id: str, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        """Stop the run in progress; what was shown stays. False if none was."""
        await self.open()
        return await self.store.cancel(self.address(thread_id), drop_inbox=drop_inbox, once=once)

    async def regenerate(self, thread_id: str, *, tenant: str = "default", once: str | None = None) -> list[Receipt]:
        """Answer the last turn again: its messages are sent once more, under new ids, and the old
        turn is taken back.

        Raises `NotFound` (nothing was answered), `ThreadBusy` (also while messages wait, which come
        after that turn). One act: whatever happens, the turn is there once. Again with the same
        `once`: the same receipts.
        """
        await self.open()
        return await self.store.regenerate(self.address(thread_id, tenant), once=once)

    async def submit_tool_outputs(self, thread_id: str, outputs: Sequence[Mapping[str, Any]]) -> list[HeldCall]:
        """Give the outputs of held calls, as ``{"tool_call_id", "output"}``.

        Raises `NotFound`, `Conflict`.
        """
        record = await self.get_thread(thread_id)
        calls = {call.call_id: call for call in record.calls}
        answers = []
        for one in outputs:
            if not {"tool_call_id", "output"} <= one.keys():
                raise InvalidMessage(f"an output has 'tool_call_id' and 'output', not {', '.join(map(str, one))[:200]}")
            call_id = str(one["tool_call_id"])
            if call_id not in calls:
                raise NotFound(f"no call {call_id!r} waits on thread {thread_id!r}")
            # with the digest of the arguments: an id alone could name a call that somebody has
            # changed meanwhile
            decision = Decision("output", str(one["output"]))
            answers.append(await self.store.decide(record.address, call_id, calls[call_id].digest, decision))
        return answers

    def on(self, kind: str, hook: Hook) -> Hook:
        """Call `hook(channel, event)` for events of this kind, or ``"*"``, on channels that
        messages are sent to from here. Raises `ConfigurationError` for a kind that does not exist.
        """
        self._hooks.add(kind, hook)
        return hook


def _answer_in(event: Event) -> str:
    if event.kind == "completed":
        return event.text
    if event.kind == "withdrawn":
        raise NotFound("the message was withdrawn and will not be answered")
    fault = event.error
    raise TurnkeepError(f"{fault.code}: {fault.details or fault.message}" if fault else "the message is dead")


def _window(
    delay: float | None, preset: Preset | None, window: float | None, max_wait: float | None
) -> dict[str, float]:
    """A fixed delay is a window that does not slide: it ends `delay` after the first message."""
    if window is not None:
        return {"window": window, "max_wait": max_wait if max_wait is not None else max(window, 8.0)}
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigurationError(f"there is no preset {preset!r}, choose from {', '.join(PRESETS)}")
        usual, longest = PRESETS[preset]
        return {"window": usual, "max_wait": longest if max_wait is None else max_wait}
    return {} if delay is None else {"window": delay, "max_wait": delay if max_wait is None else max_wait}


def _backoff(backoff: Mapping[str, Any] | None) -> dict[str, Any]:
    if backoff is None:
        return {}
    if strangers := set(backoff) - {"type", "delay", "cap"}:
        raise ConfigurationError(f"backoff does not know {', '.join(sorted(strangers))}, it takes type, delay and cap")
    return {f"backoff_{name}": value for name, value in backoff.items()}
