"""`AssistantMessageQueue`: its constructor, in the names of the seeds.

What it can do stands in the files beside this one, by what it is done to. The parts behind it, and
what opens and closes them, are the `Application`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self, Unpack

from turnkeep.application import Application
from turnkeep.errors import ConfigurationError
from turnkeep.hooks import Hook
from turnkeep.messages import BusyPolicy
from turnkeep.option_names import check_options
from turnkeep.queue.constructor_options import (
    LOCK_DURATION,
    TIMES,
    BackoffOptions,
    backoff_of,
    check_store,
    settings_of,
    window_of,
)
from turnkeep.queue.message_methods import MessageMethods
from turnkeep.queue.operator_methods import OperatorMethods
from turnkeep.queue.sync_face import SyncAssistantMessageQueue
from turnkeep.queue.thread_methods import ThreadMethods
from turnkeep.queue.turn_methods import TurnMethods
from turnkeep.setting_types import QueueSettings
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.telemetry import SILENT, Meter
from turnkeep.thread_options import Preset
from turnkeep.tools.toolbox import Registrable, Toolbox

HandleRequiresAction = Callable[[str, str, list[dict[str, Any]]], Awaitable[list[dict[str, Any]] | None]]


class AssistantMessageQueue(MessageMethods, TurnMethods, ThreadMethods, OperatorMethods):
    """A queue of conversations. Constructing opens nothing; the first use does, or `async with`.

    Without `redis_url` it is embedded: an SQLite file in the working directory. Without a key and
    base URL the built-in simulator answers. `lock_duration` is the deadline of a run, in seconds;
    `message_delay` a fixed window: each batch waits that long after its first message. `preset`
    ("web": sliding, 1.5 s and at most 8 s) goes before it, `window` and `max_wait` before both;
    with `adaptive` a channel's window is learned from its rhythm. Every setting is a keyword too;
    what is not given comes from the environment. Raises `ConfigurationError` that names all unknown
    options and all wrong values, as they were written.
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
        backoff: BackoffOptions | None = None,
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
        **settings: Unpack[QueueSettings],
    ) -> None:
        check_options(type(self).__init__, "AssistantMessageQueue", settings, times=TIMES)
        if isinstance(redis_url, Mapping):
            raise ConfigurationError("AssistantMessageQueue takes keywords: AssistantMessageQueue(redis_url=…)")
        check_store(store)
        LOCK_DURATION.check("lock_duration", lock_duration)
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
            **window_of(message_delay, preset, window, max_wait),
            **backoff_of(backoff),
        }
        if isinstance(store, str | Path):
            values["store"] = str(store)
        super().__init__(
            settings_of(values, settings, has_delay=window is None and preset is None),
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

    @cached_property
    def sync(self) -> SyncAssistantMessageQueue:
        """This queue for code without an event loop: every method waits for its result."""
        return SyncAssistantMessageQueue(self)

    def on(self, kind: str, hook: Hook) -> Hook:
        """Call `hook(channel, event)` for events of this kind, or ``"*"``, on channels that
        messages are sent to from here. Raises `ConfigurationError` for a kind that does not exist.
        """
        self._hooks.add(kind, hook)
        return hook
