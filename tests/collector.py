"""What is left to the collector, which looks at what is old once in some million objects."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def nothing_left(*kinds: type) -> Iterator[None]:
    """Of what is made in here, all of these kinds is freed by counting."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    before = set(map(id, _living(kinds)))
    try:
        yield
        assert not [one for one in _living(kinds) if id(one) not in before]
    finally:
        if was_enabled:
            gc.enable()


def _living(kinds: tuple[type, ...]) -> list[object]:
    # By its type: `isinstance` asks a proxy for the class of what may be gone.
    return [one for one in gc.get_objects() if issubclass(type(one), kinds)]
