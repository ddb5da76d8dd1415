"""JSON schemas of what goes in and comes out over HTTP, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnkeep.messages import BUSY_POLICIES
from turnkeep.windows import PRESETS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 512}
TEXTS: Schema = {"type": "array", "items": TEXT}


def optional(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def many(name: str) -> Schema:
    return {"type": "array", "items": ref(name)}


def record(fields: dict[str, Schema], *, may_miss: Sequence[str] = ()) -> Schema:
    """What comes out: exactly these fields."""
    names = [name for name in fields if name not in may_miss]
    return {"type": "object", "properties": fields, "required": names, "additionalProperties": False}


def request(fields: dict[str, Schema], *, must_have: Sequence[str] = (), others: bool = False) -> Schema:
    """What goes in."""
    return {"type": "object", "properties": fields, "required": list(must_have), "additionalProperties": others}


_USAGE_COUNTS = (
    "requests", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_nano",
    "unpriced", "estimated",
)  # fmt: skip
_METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": {"type": "string", "maxLength": 512},
}
_CHANGED_METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": optional({"type": "string", "maxLength": 512}),
}
_CONTENT: Schema = {"anyOf": [TEXT, {"type": "array", "items": ref("Part"), "minItems": 1, "maxItems": 64}]}
_STATES = ("idle", "waiting", "leased", "retry", "held")
_RUN_STATES = ("queued", "in_progress", "requires_action", "completed", "failed", "cancelled", "incomplete")
_MESSAGE_STATES = ("delayed", "waiting", "running", "answered", "cancelled", "withdrawn", "dead")
_DECISIONS = ("approved", "denied", "output", "expired", "declined")
_KINDS = ("user", "system", "assistant", "reasoning", "hosted", "call", "output")

_OPTIONS: dict[str, Schema] = {
    "window": optional({"type": "number", "minimum": 0, "maximum": 3600}),
    "max_wait": optional({"type": "number", "minimum": 0, "maximum": 86_400}),
    "on_busy": optional(one_of(*BUSY_POLICIES)),
}

_TOOL_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 200}
_HOSTED_TOOL: Schema = {"type": "object", "properties": {"type": TEXT}, "required": ["type"], "maxProperties": 64}
_ASSISTANT_FIELDS: dict[str, Schema] = {
    "model": {"type": "string", "minLength": 1, "maxLength": 200},
    "name": {"type": "string", "minLength": 1, "maxLength": 200},
    "instructions": {"type": "string", "minLength": 1, "maxLength": 100_000},
    "tools": optional({"type": "array", "items": {"anyOf": [_TOOL_NAME, _HOSTED_TOOL]}, "maxItems": 200}),
    "fallbacks": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 200}, "maxItems": 200},
    "parameters": {"type": "object", "maxProperties": 64},
    "background": FLAG,
    "metadata": {"type": "object", "maxProperties": 64},
}

SCHEMAS: dict[str, Schema] = {
    # ------------------------------------------------------------ in
    "NewMessage": request(
        {
            "message": {"type": "string", "minLength": 1, "description": "The text; or give `content`."},
            "content": _CONTENT,
            "message_id": optional(NAME),
            "instructions": optional({"type": "string", "minLength": 1, "maxLength": 32_000}),
            "model": optional({"type": "string", "minLength": 1, "maxLength": 200}),
            "effort": optional(one_of("none", "minimal", "low", "medium", "high", "xhigh", "max")),
            "format": optional({"type": "object", "properties": {"type": TEXT}, "required": ["type"]}),
            "parameters": optional({"type": "object", "maxProperties": 64}),
            "metadata": optional(_METADATA),
            "on_busy": optional(one_of(*BUSY_POLICIES)),
            "window": optional({"type": "number", "minimum": 0, "maximum": 3600}),
            "max_wait": optional({"type": "number", "minimum": 0, "maximum": 86_400}),
            "not_before": optional({"type": "number", "minimum": 0}),
            "flush": FLAG,
        },
        others=True,
    ),
    "Edit": request({"message": {"type": "string", "minLength": 1}, "content": _CONTENT}, others=True),
    "Disconnect": request({"before": optional({"type": "number", "minimum": 0, "maximum": 1e11})}),
    "Cancel": request({"inbox": one_of("keep", "drop")}, others=True),
    "Decision": request(
        {
            "decision": one_of("approved", "denied", "output"),
            "output": TEXT,
            "digest": {**TEXT, "minLength": 1, "maxLength": 64},
        },
        must_have=("decision", "digest"),
        others=True,
    ),
    "ThreadChange": request(
        {
            "metadata": _CHANGED_METADATA,
            "assistant": optional({**NAME, "maxLength": 200}),
            "options": optional(ref("NewThreadOptions")),
        }
    ),
    "NewThreadOptions": request({**_OPTIONS, "preset": optional(one_of(*PRESETS))}),
    "NewThread": request({"metadata": _CHANGED_METADATA}, others=True),
    "AssistantFields": request(_ASSISTANT_FIELDS),
    "AssistantChange": request({**_ASSISTANT_FIELDS, "version": {"type": "integer"}}),
    # ------------------------------------------------------------ out
    "Error": record(
        {
            "error": record(
                {"code": TEXT, "message": TEXT, "retryable": FLAG, "retry_after": NUMBER},
                may_miss=("retryable", "retry_after"),
            )
        }
    ),
    "Part": {"type": "object", "properties": {"type": one_of("text", "image", "file")}, "required": ["type"]},
    "Receipt": record(
        {
            "channel": TEXT,
            "message_id": TEXT,
            "thread_id": TEXT,
            "status": one_of("accepted", "delayed"),
            "position": COUNT,
            "due_in": optional(NUMBER),
            "idempotent": FLAG,
            "steer": one_of("accepted"),
        },
        may_miss=("steer",),
    ),
    "Receipts": record({"receipts": many("Receipt")}),
    "Message": record(
        {
            "message_id": TEXT,
            "status": one_of(*_MESSAGE_STATES),
            "run_id": optional(TEXT),
            "covers": TEXTS,
            "settled_at": optional(NUMBER),
            "receipt": ref("Receipt"),
            "steer": one_of("accepted", "applied", "deferred"),
            "content": many("Part"),
            "arrival": optional(NUMBER),
        },
        may_miss=("steer", "content", "arrival"),
    ),
    "Entry": {
        "type": "object",
        "description": "One entry of a transcript; what else it holds depends on its kind.",
        "properties": {"turn": {"type": "integer"}, "at": NUMBER, "kind": one_of(*_KINDS), "content": many("Part")},
        "required": ["turn", "at", "kind"],
    },
    "Transcript": record(
        {"items": many("Entry"), "summary": optional(TEXT), "complete": FLAG, "open": many("Message")}
    ),
    "Cancelled": record({"cancelled": FLAG}),
    "Flushed": record({"flushed": FLAG}),
    "Paused": record({"paused": FLAG}),
    "HeldCall": record(
        {
            "call_id": TEXT,
            "name": TEXT,
            "arguments": TEXT,
            "digest": TEXT,
            "kind": one_of("approval", "output"),
            "self_approval": FLAG,
            "decision": one_of(*_DECISIONS),
            "output": TEXT,
            "by": TEXT,
        },
        may_miss=("self_approval", "decision", "output", "by"),
    ),
    "Usage": record(
        {**dict.fromkeys(_USAGE_COUNTS, COUNT), "cost": optional(NUMBER)}, may_miss=_USAGE_COUNTS
    ),
    "Fault": record({"code": TEXT, "message": TEXT, "details": TEXT}),
    "Run": record(
        {
            "run_id": TEXT,
            "status": one_of(*_RUN_STATES),
            "message_ids": TEXTS,
            "attempt": COUNT,
            "started_at": NUMBER,
            "finished_at": optional(NUMBER),
            "model": optional(TEXT),
            "usage": ref("Usage"),
            "error": optional(ref("Fault")),
            "calls": many("HeldCall"),
        }
    ),
    "Runs": record({"runs": many("Run")}),
    "Thread": record(
        {
            "channel": TEXT,
            "queue": TEXT,
            "thread_id": TEXT,
            "state": one_of(*_STATES),
            "paused": FLAG,
            "created_at": NUMBER,
            "active_at": NUMBER,
            "expires_at": NUMBER,
            "due": optional(NUMBER),
            "assistant": optional(TEXT),
            "metadata": {"type": "object", "additionalProperties": TEXT},
            "options": record(_OPTIONS),
            "summary": optional(TEXT),
            **dict.fromkeys(("messages", "open_messages", "turns", "items", "bytes", "attempt", "top"), COUNT),
            "usage": ref("Usage"),
            "run_id": optional(TEXT),
            "calls": many("HeldCall"),
            "epoch": TEXT,
        }
    ),
    "Threads": record({"threads": many("Thread")}),
    "Queue": record(
        {
            **dict.fromkeys(("activeCount", "waitingCount", "delayedCount", "completedCount", "failedCount"), COUNT),
            "details": record(
                {
                    **dict.fromkeys(("held", "paused", "open_messages", "dead_letters", "threads"), COUNT),
                    "circuits": {
                        "type": "array",
                        "items": record({"code": TEXT, "message": TEXT, "since": NUMBER}),
                    },
                }
            ),
        }
    ),
    "DeadLetter": record(
        {
            "dead_id": TEXT,
            "channel": TEXT,
            "thread_id": TEXT,
            "message_id": TEXT,
            "content": many("Part"),
            "error": ref("Fault"),
            "attempts": COUNT,
            "deaths": COUNT,
            "run_id": TEXT,
            "at": NUMBER,
        }
    ),
    "DeadLetters": record({"dead": many("DeadLetter")}),
    "Assistant": record(
        {
            "id": TEXT,
            "model": TEXT,
            "name": TEXT,
            "instructions": TEXT,
            "tools": optional({"type": "array", "items": {"anyOf": [_TOOL_NAME, _HOSTED_TOOL]}}),
            "parameters": ANYTHING,
            "fallbacks": TEXTS,
            "background": FLAG,
            "metadata": ANYTHING,
            "version": COUNT,
            "created_at": NUMBER,
        }
    ),
    "Assistants": record({"assistants": many("Assistant"), "default": optional(TEXT)}),
    "Disconnected": record({"user": TEXT, "before": NUMBER}),
    "Ticket": record({"ticket": TEXT, "expires_at": NUMBER, "expires_in": NUMBER}),
    "Session": record(
        {
            "tenant": TEXT,
            "subject": TEXT,
            "scopes": {"type": "array", "items": one_of("send", "read", "admin")},
            "channels": optional(TEXTS),
            "expires_at": optional(NUMBER),
            "csrf": optional(TEXT),
        }
    ),
    "OpenApi": {"type": "object", "properties": {"openapi": {"const": "3.1.0"}}, "required": ["openapi", "paths"]},
}  # fmt: skip
