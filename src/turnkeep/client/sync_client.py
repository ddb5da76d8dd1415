"""`SyncTurnkeepClient`: the client for programs without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Never, Self

from turnkeep.background_loop import BackgroundLoop, Blocking
from turnkeep.client.server_link import JsonObject, StreamState
from turnkeep.client.turnkeep_client import TurnkeepClient


class SyncTurnkeepClient:
    """The methods of `TurnkeepClient`, each of which waits for its result.

    It may be called from any thread. After a fork make one in each process; one that nobody has
    used yet may stand in a module.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        api_key: str | None = None,
        *,
        patience: float = 60.0,
        **strangers: Never,
    ) -> None:
        self._inner = TurnkeepClient(base_url, api_key, patience=patience, **strangers)
        self._background = BackgroundLoop("this client")

    call = Blocking(TurnkeepClient.call)
    send = Blocking(TurnkeepClient.send)
    ask = Blocking(TurnkeepClient.ask)
    get_message = Blocking(TurnkeepClient.get_message)
    edit = Blocking(TurnkeepClient.edit)
    withdraw = Blocking(TurnkeepClient.withdraw)
    list_messages = Blocking(TurnkeepClient.list_messages)

    flush = Blocking(TurnkeepClient.flush)
    cancel = Blocking(TurnkeepClient.cancel)
    pause = Blocking(TurnkeepClient.pause)
    resume = Blocking(TurnkeepClient.resume)
    regenerate = Blocking(TurnkeepClient.regenerate)
    decide = Blocking(TurnkeepClient.decide)
    answer_as = Blocking(TurnkeepClient.answer_as)
    list_runs = Blocking(TurnkeepClient.list_runs)
    get_run = Blocking(TurnkeepClient.get_run)

    get_thread = Blocking(TurnkeepClient.get_thread)
    create_thread = Blocking(TurnkeepClient.create_thread)
    change_thread = Blocking(TurnkeepClient.change_thread)
    forget = Blocking(TurnkeepClient.forget)

    list_threads = Blocking(TurnkeepClient.list_threads)
    search = Blocking(TurnkeepClient.search)
    list_recent_runs = Blocking(TurnkeepClient.list_recent_runs)
    list_sinks = Blocking(TurnkeepClient.list_sinks)
    get_queue_status = Blocking(TurnkeepClient.get_queue_status)
    list_workers = Blocking(TurnkeepClient.list_workers)
    get_daily_usage = Blocking(TurnkeepClient.get_daily_usage)
    list_dead_letters = Blocking(TurnkeepClient.list_dead_letters)
    redrive = Blocking(TurnkeepClient.redrive)
    discard = Blocking(TurnkeepClient.discard)
    list_assistants = Blocking(TurnkeepClient.list_assistants)
    create_assistant = Blocking(TurnkeepClient.create_assistant)
    change_assistant = Blocking(TurnkeepClient.change_assistant)
    use_assistant = Blocking(TurnkeepClient.use_assistant)
    delete_assistant = Blocking(TurnkeepClient.delete_assistant)

    def stream(
        self,
        channel: str,
        *,
        after: str | None = None,
        deltas: bool = False,
        everything: bool = False,
        on_state: Callable[[StreamState], object] = lambda _: None,
    ) -> Iterator[JsonObject]:
        """The frames of a channel, as `TurnkeepClient.stream`; each step waits for the next one, and
        `on_state` is called by the client's own thread.
        """
        return self._background.iterate(
            self._inner.stream(channel, after=after, deltas=deltas, everything=everything, on_state=on_state)
        )

    def close(self) -> None:
        """End the connection and the thread. Safe to repeat."""
        if self._background.is_open:
            self._background.wait(self._inner.close())
        self._background.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
