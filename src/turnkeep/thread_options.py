"""What a thread has of its own: how long it waits for more, what a message does that comes during a
run. Two windows have names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

from turnkeep.errors import InvalidMessage
from turnkeep.inputs import MAX_WAIT, MAX_WINDOW, optional_number, optional_text
from turnkeep.messages import BUSY_POLICIES
from turnkeep.store.values import ThreadOptions

Preset = Literal["web", "seed"]

PRESETS: dict[Preset, tuple[float, float]] = {"web": (1.5, 8.0), "seed": (10.0, 10.0)}
"""Window and max_wait. `web`: sliding, for people who look at the page; `seed`: fixed, 10 s after
the first message.
"""

OPTIONS = frozenset({"preset", *(field.name for field in fields(ThreadOptions))})


def thread_options(wishes: object) -> ThreadOptions:
    """What a thread is to have of its own, None for nothing; a preset stands for its window and
    max_wait. Raises `InvalidMessage`.
    """
    if wishes is None:
        return ThreadOptions()
    if not isinstance(wishes, Mapping):
        raise InvalidMessage("'options' must be an object or null")
    optional_number(wishes, "window", MAX_WINDOW)
    optional_number(wishes, "max_wait", MAX_WAIT)
    for name in ("on_busy", "preset"):
        optional_text(wishes, name, 20)
    if strangers := set(wishes) - OPTIONS:
        raise InvalidMessage(f"there is no option {', '.join(sorted(strangers))[:200]}, known are {sorted(OPTIONS)}")
    options = {name: value for name, value in wishes.items() if value is not None}
    preset = options.pop("preset", None)
    if preset is not None:
        if preset not in PRESETS:
            raise InvalidMessage(f"'preset' must be one of {', '.join(PRESETS)}")
        window, max_wait = PRESETS[preset]
        options = {"window": window, "max_wait": max_wait} | options
    if options.get("on_busy", "collect") not in BUSY_POLICIES:
        raise InvalidMessage(f"'on_busy' must be one of {', '.join(BUSY_POLICIES)}")
    return ThreadOptions(**options)
