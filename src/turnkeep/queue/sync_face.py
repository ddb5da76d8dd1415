"""`SyncAssistantMessageQueue`: the queue for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from turnkeep.application import Application
from turnkeep.background_loop import BackgroundLoop, Blocking
from turnkeep.events import Event
from turnkeep.queue.message_methods import MessageMethods
from turnkeep.queue.operator_methods import OperatorMethods
from turnkeep.queue.thread_methods import ThreadMethods
from turnkeep.queue.turn_methods import TurnMethods


class SyncAssistantMessageQueue:
    """The methods of a queue, each of which waits for its result: `AssistantMessageQueue(…).sync`.

    It may be called from any thread, and lives in one of its own. With `start_worker` that thread
    answers messages while the program does something else. After a fork (gunicorn, Celery) make one
    in each process; one that nobody has used yet may stand in a module. `with` or `close` ends it;
    else the end of the program does, and what was accepted is safe.
    """

    def __init__(self, queue: Application) -> None:
        self._inner = queue
        self._background = BackgroundLoop("this queue")

    add_message_to_thread = Blocking(MessageMethods.add_message_to_thread)
    ask = Blocking(MessageMethods.ask)
    create_message = Blocking(MessageMethods.create_message)
    edit = Blocking(MessageMethods.edit)
    get_message = Blocking(MessageMethods.get_message)
    list_open_messages = Blocking(MessageMethods.list_open_messages)
    typing = Blocking(MessageMethods.typing)
    withdraw = Blocking(MessageMethods.withdraw)

    cancel_run = Blocking(TurnMethods.cancel_run)
    create_run = Blocking(TurnMethods.create_run)
    decide = Blocking(TurnMethods.decide)
    flush = Blocking(TurnMethods.flush)
    list_runs = Blocking(TurnMethods.list_runs)
    pause = Blocking(TurnMethods.pause)
    regenerate = Blocking(TurnMethods.regenerate)
    resume = Blocking(TurnMethods.resume)
    submit_tool_outputs = Blocking(TurnMethods.submit_tool_outputs)

    answer_as = Blocking(ThreadMethods.answer_as)
    change_thread = Blocking(ThreadMethods.change_thread)
    create_thread = Blocking(Application.create_thread)
    forget = Blocking(ThreadMethods.forget)
    get_thread = Blocking(ThreadMethods.get_thread)
    get_usage = Blocking(ThreadMethods.get_usage)
    list_messages = Blocking(ThreadMethods.list_messages)
    list_threads = Blocking(ThreadMethods.list_threads)
    search = Blocking(ThreadMethods.search)

    discard = Blocking(OperatorMethods.discard)
    get_daily_usage = Blocking(OperatorMethods.get_daily_usage)
    get_dead_letter = Blocking(OperatorMethods.get_dead_letter)
    get_queue_status = Blocking(OperatorMethods.get_queue_status)
    list_dead_letters = Blocking(OperatorMethods.list_dead_letters)
    list_sinks = Blocking(OperatorMethods.list_sinks)
    list_workers = Blocking(OperatorMethods.list_workers)
    redrive = Blocking(OperatorMethods.redrive)

    open = Blocking(Application.open)
    run_worker = Blocking(Application.run_worker)

    def start_worker(self) -> None:
        """Answer messages from now on, in the thread of this queue."""
        self._inner.start_worker()
        self._background.wait(self._inner.open())

    def events(
        self, thread_id: str, *, after: int | None = None, epoch: str | None = None, tenant: str = "default"
    ) -> Iterator[Event]:
        """`for event in queue.events(thread)`: no holes, from a position or from now. Each step waits
        for the next event, without end.
        """
        return self._background.iterate(self._inner.events(thread_id, after=after, epoch=epoch, tenant=tenant))

    def close(self) -> None:
        """Drain: claim no more, let runs end or give them back, close everything. Safe to repeat."""
        if self._background.is_open:
            self._background.wait(self._inner.close())
        self._background.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
