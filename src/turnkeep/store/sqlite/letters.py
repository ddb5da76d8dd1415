"""Dead letters and finished runs in their stored form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeep.events import Fault
from turnkeep.messages import Address, Message
from turnkeep.store.base import Call, DeadLetter, RunRecord
from turnkeep.usage import Usage


def letter_to_json(letter: DeadLetter) -> dict[str, Any]:
    address = letter.address
    return {
        "dead_id": letter.dead_id,
        "address": [address.tenant, address.queue, address.channel],
        "thread_id": letter.thread_id,
        "message": letter.message.to_json(),
        "fault": letter.fault.to_json(),
        "attempts": letter.attempts,
        "deaths": letter.deaths,
        "run_id": letter.run_id,
        "at": letter.at,
    }


def letter_from_json(data: Mapping[str, Any]) -> DeadLetter:
    address = Address(*data["address"])
    message = Message.from_json(address, data["message"])
    return DeadLetter(**{**data, "address": address, "message": message, "fault": Fault(**data["fault"])})


def run_from_json(data: Mapping[str, Any]) -> RunRecord:
    values = {
        **data,
        "message_ids": tuple(data["message_ids"]),
        "usage": Usage.from_json(data["usage"]),
        "fault": Fault(**data["fault"]) if data["fault"] else None,
        "calls": tuple(Call(**call) for call in data["calls"]),
    }
    return RunRecord(**values)
