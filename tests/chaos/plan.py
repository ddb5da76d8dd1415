"""What a storm over real processes is made of: how much of everything, and how likely it is."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.chaos.people import Sent

KEY = "sk-storm"
"""Of the model, in its own process."""

SETTINGS: Mapping[str, str] = {
    "OPENAI_API_KEY": KEY, "TURNKEEP_MODEL_API": "responses", "TURNKEEP_WINDOW": "0.3",
    "TURNKEEP_MAX_WAIT": "1", "TURNKEEP_MAX_INBOX": "1000", "TURNKEEP_CHANNEL_RATE": "0", "TURNKEEP_USER_RATE": "0",
    "TURNKEEP_MAX_ATTEMPTS": "50", "TURNKEEP_MAX_DEATHS": "50", "TURNKEEP_BACKOFF_DELAY": "0.1",
    "TURNKEEP_BACKOFF_CAP": "0.5", "TURNKEEP_FIRST_EVENT_TIMEOUT": "4", "TURNKEEP_IDLE_TIMEOUT": "3",
    "TURNKEEP_RUN_DEADLINE": "60", "TURNKEEP_DRAIN": "1", "TURNKEEP_HISTORY_ITEMS": "100000",
    "TURNKEEP_LOG_FORMAT": "json",
}  # fmt: skip
"""Short waits, and nothing is given up: a dead letter would count as lost."""

MODEL_FAULTS: tuple[Mapping[str, Any], ...] = (
    {"kind": "429", "probability": 0.01, "retry_after_ms": 300},
    {"kind": "503", "probability": 0.01},
    {"kind": "cut", "probability": 0.02, "after": 3},
    {"kind": "reset", "probability": 0.02, "after": 5},
    {"kind": "truncate", "probability": 0.01, "after": 6},
    {"kind": "stall", "probability": 0.003, "after": 4, "seconds": 30},
    {"kind": "lost", "probability": 0.02},
)

BLOWS: Mapping[str, float] = {
    "claimed": 0.006, "asked": 0.006, "midstream": 0.0008, "called": 0.015, "tool_started": 0.03, "tool_done": 0.03,
    "final": 0.01, "committed": 0.006,
}  # fmt: skip
"""How likely a worker dies at each arrow of a run."""

ACTS = (
    *("kill_worker",) * 4, *("freeze_worker",) * 3, *("kill_gateway",) * 2, "freeze_gateway", "starve_worker",
    "starve_worker", "starve_gateway", "harm_store_line", "harm_store_line", "harm_people", "harm_people", "cancel",
    "set_clock", "set_clock", "spoil_store", "hush_receiver", "fail_disk", "fail_disk",
)  # fmt: skip

STRICT: Mapping[str, str] = {"TURNKEEP_DURABILITY": "strict", "TURNKEEP_REPLICAS": "1"}
"""On Redis, which has a replica: else a failover may lose what was answered for."""

WORKS = "waiting for work"
"""What a worker says when it begins."""

PER_SECOND = 3.0
"""Messages of all people together in a long storm."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. `seconds` is the length of the storm, without what comes before and after."""

    seed: int = 1
    seconds: float = 60.0
    store: Literal["redis", "sqlite"] = "redis"
    workers: int = 3
    gateways: int = 2
    clients: int = 8
    lease: float = 2.0
    calm: float = 90.0
    planted: str | None = None
    """A bug of `planted` that all workers and gateways have."""
    acts: tuple[str, ...] = ACTS
    """What is broken, each as often as it stands here; the store is killed beside them."""
    folder: Path | None = None
    """Where logs, ledgers and data stay; without one they go."""


@dataclass(frozen=True)
class Conduct:
    """How people speak: words of an answer, how many of their answers come late, and how late (ms)."""

    most_words: int = 30
    slow: float = 0.1
    delays: tuple[int, int] = (500, 2500)


def message(channel: str, person: str, number: int, words: random.Random, *, conduct: Conduct = Conduct()) -> Sent:
    """What somebody says: some words, now and then with work for a tool or with a hurry."""
    sent = Sent(channel, person, number, "")
    parts = [f"{channel} {person} says {number} [[words:{words.randint(3, conduct.most_words)}]]"]
    chance = words.random()
    if words.random() < conduct.slow:
        parts.append(f"[[ttft:{words.randint(*conduct.delays)}]]")
    if chance < 0.35:
        parts.append(f'[[comment:one moment]] [[call:stamp {{"message": "{sent.message_id}"}}]]')
    elif chance < 0.5:
        parts.append(f'[[call:look {{"message": "{sent.message_id}"}}]]')
    sent.text = " ".join(parts)
    wishes: dict[str, Any] = {}
    if words.random() < 0.25:
        wishes["on_busy"] = words.choice(("queue", "steer", "steer", "interrupt", "rollback"))
    if words.random() < 0.2:
        wishes["flush"] = True
    sent.wishes = wishes
    return sent
