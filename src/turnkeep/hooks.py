"""Hooks: functions of the program around us that are called when something happens on a channel."""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import get_args

from turnkeep.errors import ConfigurationError
from turnkeep.events import Event, EventKind
from turnkeep.hub import Hub
from turnkeep.messages import Address
from turnkeep.subscription import SubscriptionStart
from turnkeep.telemetry import get_log

log = get_log(__name__)

Hook = Callable[[str, Event], Awaitable[None] | None]

MAX_CHANNELS = 10_000
"""Channels listened to at once; the longest silent ones go first."""
WAITING = 10_000
"""Events that may wait for slow hooks; what comes on top is dropped, and said in the log."""


class Hooks:
    """Calls hooks in this process for channels that messages were sent to from here, event by
    event, in channel order.

    Not a delivery guarantee: nothing is called for what happens while this process is
    down. Sinks deliver.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._hooks: dict[str, list[Hook]] = {}
        self._channels: OrderedDict[Address, None] = OrderedDict()
        self._waiting: asyncio.Queue[tuple[Address, Event]] = asyncio.Queue(WAITING)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def add(self, kind: str, hook: Hook) -> None:
        """Call `hook(channel, event)` for events of this kind, or of every kind: ``*``.

        Raises `ConfigurationError`.
        """
        if kind != "*" and kind not in get_args(EventKind):
            raise ConfigurationError(f"there is no event {kind!r}, known are * and {', '.join(get_args(EventKind))}")
        self._hooks.setdefault(kind, []).append(hook)

    async def watch(self, address: Address) -> None:
        """Listen to this channel from now on."""
        if address in self._channels:
            self._channels.move_to_end(address)
            return
        # before the wait: two sends at once must not subscribe twice
        self._channels[address] = None
        await self._hub.subscribe(address, self)
        if len(self._channels) > MAX_CHANNELS:
            oldest, _ = self._channels.popitem(last=False)
            await self._hub.unsubscribe(oldest, self)

    async def run(self) -> None:
        """Call hooks, one event after the other, until cancelled."""
        while True:
            address, event = await self._waiting.get()
            for hook in (*self._hooks.get(event.kind, ()), *self._hooks.get("*", ())):
                await _call(hook, address.channel, event)

    def on_subscription(self, address: Address, start: SubscriptionStart) -> None:
        return

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        for event in events:
            # dropped instead of waited for: a slow hook may not hold up the sockets of the same hub
            if self._waiting.full():
                log.warning("hooks_too_slow", dropped=event.kind)
            else:
                self._waiting.put_nowait((address, event))

    async def wait_for_room(self, address: Address) -> None:
        """Nothing of the past is told to hooks."""


async def _call(hook: Hook, channel: str, event: Event) -> None:
    """A hook that fails is said in the log; the others go on."""
    try:
        result = hook(channel, event)
        if inspect.isawaitable(result):
            await result
    except Exception:
        log.exception("hook_failed", kind=event.kind)
