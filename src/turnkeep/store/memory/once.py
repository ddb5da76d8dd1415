"""Operations of the memory engine that are done once under one name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from turnkeep.errors import ThreadNotFound
from turnkeep.messages import Address
from turnkeep.store.memory.state import MemoryState, OperationResult
from turnkeep.store.operations import MOST_RESULTS, RESULT_LIFETIME, operation_id

P = ParamSpec("P")
S = TypeVar("S", bound=MemoryState)
T = TypeVar("T")

Operation = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def once_only(act: Operation[S, P, T]) -> Operation[S, P, T]:
    """Again with the same `once` and arguments: the first result, and nothing is touched."""

    @wraps(act)
    async def run_once(self: S, *args: P.args, **options: P.kwargs) -> T:
        once: Any = options.pop("once", None)
        if once is None:
            return await act(self, *args, **options)
        name, now = operation_id(once, act.__name__, args, sorted(options.items())), self.moment()
        entry = self.operations.pop(name, None)
        if entry is None or entry.until <= now:
            # A copy in, a copy out: a caller that changes
            # its result must not change that of the repeat.
            result = copy.deepcopy(await act(self, *args, **options))
            where = next((one for one in args if isinstance(one, Address)), None)
            entry = OperationResult(now + RESULT_LIFETIME, result, where)
            _forget(self.operations, now)
        # Put in again at the end: the dictionary is in
        # the order of use, and the older half goes first.
        self.operations[name] = entry
        # Neither done again nor told: the words of the result went with their thread.
        if entry.is_forgotten:
            raise ThreadNotFound("this was done, and the thread has been forgotten since")
        first_result: T = copy.deepcopy(entry.result)
        return first_result

    return cast("Operation[S, P, T]", run_once)


def _forget(operations: dict[str, OperationResult], now: float) -> None:
    """Drop what nobody repeats any more, and the older half of too many."""
    if len(operations) > MOST_RESULTS:
        live = [name for name, entry in operations.items() if entry.until > now]
        for name in set(operations) - set(live[-MOST_RESULTS // 2 :]):
            del operations[name]
