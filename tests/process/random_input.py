"""Whatever may come in as JSON."""

from __future__ import annotations

import random
import string
from typing import Any


def anything(source: random.Random, depth: int = 0) -> Any:
    """Some JSON value, hostile on average."""
    kind = source.randrange(9 if depth < 4 else 6)
    match kind:
        case 0:
            return source.choice([None, True, False])
        case 1:
            return source.choice([0, -1, 1.5, 1e308, 2**63, -(2**70)])
        case 2 | 3:
            letters = string.printable + 'äß€😀\u202e\u0000{}:*[]\\"'
            return "".join(source.choice(letters) for _ in range(source.choice([0, 1, 5, 40, 600])))
        case 4 | 5:
            return source.choice(
                ["subscribe", "message", "cancel", "flush", "typing", "ping", "decide", "c", "subscription"]
            )
        case 6:
            return [anything(source, depth + 1) for _ in range(source.randrange(4))]
    names = ["action", "channel", "message", "message_id", "content", "payload", "offset", "epoch", "window", "on_busy",
             "metadata", "id", "history", "text", "events", "call_id", "decision", "type", "flush", "x"]  # fmt: skip
    return {source.choice(names): anything(source, depth + 1) for _ in range(source.randrange(8))}
