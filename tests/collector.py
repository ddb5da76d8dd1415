"""What is left to the collector, which looks at what is old once in some million objects."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def nothing_left(*kinds: type[Any]) -> Iterator[None]:
    """Of what is made in here, all of these kinds is freed by counting."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    before = set(map(id, living(*kinds)))
    try:
        yield
        assert not [one for one in living(*kinds) if id(one) not in before]
    finally:
        if was_enabled:
            gc.enable()


def living(*kinds: type[T]) -> list[T]:
    objects: list[Any] = gc.get_objects()
    # By its type: `isinstance` asks a proxy for the class of what may be gone.
    return [one for one in objects if issubclass(type(one), kinds)]
