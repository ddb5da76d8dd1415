"""JSON schemas of what goes in and comes out over HTTP, by name: what goes in is made from the
models of `request_bodies`.
"""

from __future__ import annotations

from collections.abc import Sequence

from turnkeep.doors.http.request_bodies import BODIES, AssistantFields, NewThreadOptions, schema_of
from turnkeep.tools.schema import Schema

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}
TEXTS: Schema = {"type": "array", "items": TEXT}

_COUNTS_BY_NAME: Schema = {"type": "object", "additionalProperties": COUNT}
_USAGE_COUNTS = (
    "requests", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_nano",
    "unpriced", "estimated",
)  # fmt: skip
_STATES = ("idle", "waiting", "leased", "retry", "held")
_RUN_STATES = ("queued", "in_progress", "requires_action", "completed", "failed", "cancelled", "incomplete")
_MESSAGE_STATES = ("delayed", "waiting", "running", "answered", "cancelled", "withdrawn", "dead")
_DECISIONS = ("approved", "denied", "output", "expired", "declined")
_KINDS = ("user", "system", "assistant", "reasoning", "hosted", "call", "output")

_OPTIONS: dict[str, Schema] = {
    name: schema for name, schema in schema_of(NewThreadOptions)["properties"].items() if name != "preset"
}
_TOOLS: Schema = schema_of(AssistantFields)["properties"]["tools"]


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


SCHEMAS: dict[str, Schema] = {
    **{name: schema_of(model) for name, model in BODIES.items()},
    "Error": record(
        {
            "error": record(
                {"code": TEXT, "message": TEXT, "retryable": FLAG, "retry_after": NUMBER},
                may_miss=("retryable", "retry_after"),
            )
        }
    ),
    "OpenAIError": record(
        {"error": record({"message": TEXT, "type": TEXT, "param": {"type": "null"}, "code": TEXT})},
    ),
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
    "Cause": record(
        {
            "phase": one_of("waiting", "retrying"),
            **dict.fromkeys(("reason", "message", "error_details", "remedy"), TEXT),
            "since": NUMBER,
            "attempt": COUNT,
            "due": optional(NUMBER),
        }
    ),
    "Transcript": record(
        {
            "items": many("Entry"),
            "summary": optional(TEXT),
            "complete": FLAG,
            "open": many("Message"),
            "dead": many("DeadLetter"),
            "thread": ref("Thread"),
            "waiting": optional(ref("Cause")),
        }
    ),
    "Answer": record({"message": TEXT, "author": TEXT}),
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
            "show": one_of("arguments", "all"),
            "withheld": FLAG,
            "decision": one_of(*_DECISIONS),
            "output": TEXT,
            "by": TEXT,
            "decided_at": NUMBER,
        },
        may_miss=("self_approval", "show", "withheld", "decision", "output", "by", "decided_at"),
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
    "RunLife": record({"channel": TEXT, "run": ref("Run"), "events": {"type": "array", "items": ref("LogEntry")}}),
    "LogEntry": {
        "type": "object",
        "description": "An entry of the log; `until`: tokens in a row, up to this moment.",
        "properties": {"kind": TEXT, "at": NUMBER, "until": NUMBER, "characters": COUNT},
        "required": ["kind", "at", "characters"],
    },
    "RecentRuns": record({"runs": many("RunOfChannel"), "next": optional(TEXT)}),
    "RunOfChannel": {
        "type": "object",
        "description": "As Run, with its channel.",
        "properties": {"channel": TEXT, "run_id": TEXT},
        "required": ["channel", "run_id"],
    },
    "Sinks": record({"sinks": {"type": "array", "items": ref("Sink")}}),
    "Sink": {
        "type": "object",
        "properties": {
            "name": TEXT,
            **dict.fromkeys(("waiting", "parked", "given_up", "lost"), COUNT),
            **dict.fromkeys(("oldest_at", "lost_at"), optional(NUMBER)),
        },
        "required": ["name"],
    },
    "Threads": record({"threads": many("Thread"), "next": optional(TEXT)}),
    "Passages": record({"passages": many("Passage")}),
    "Passage": record(
        {"channel": TEXT, "turn": COUNT, "at": NUMBER, "kind": one_of("user", "assistant"), "excerpt": TEXT}
    ),
    "Process": record(
        {
            **dict.fromkeys(("name", "host", "role", "version"), TEXT),
            "queues": TEXTS,
            **dict.fromkeys(("pid", "slots", "active_runs"), COUNT),
            **dict.fromkeys(("started_at", "renewed_at", "age"), NUMBER),
            "silent": FLAG,
        }
    ),
    "Processes": record({"processes": many("Process")}),
    "Activity": record(
        {
            "span": one_of("hour", "month"),
            "now": NUMBER,
            "bounds": {"type": "array", "items": NUMBER},
            "series": {"type": "array", "items": ref("Figures")},
        }
    ),
    "Figures": {
        "type": "object",
        "description": "Figures of a stretch of time, without what did not happen. Buckets of waits end at `bounds`.",
        "properties": {
            "at": NUMBER,
            "runs": COUNT,
            "messages": COUNT,
            "ends": _COUNTS_BY_NAME,
            "errors": _COUNTS_BY_NAME,
            "usage": _COUNTS_BY_NAME,
            "waits": {"type": "object", "additionalProperties": {"type": "array", "items": COUNT}},
            "backlog": _COUNTS_BY_NAME,
        },
    },
    "UsageByDay": record(
        {
            "tenant": TEXT,
            "days": {
                "type": "array",
                "items": record(
                    {
                        "day": TEXT,
                        "total": ref("Figures"),
                        "models": {"type": "object", "additionalProperties": ref("Figures")},
                        "assistants": {"type": "object", "additionalProperties": ref("Figures")},
                    }
                ),
            },
            "budgets": {
                "type": "array",
                "items": record(
                    {"of": TEXT, "period": TEXT, "dollars": NUMBER, "spent": NUMBER, "reserved": NUMBER},
                    may_miss=("spent", "reserved"),
                ),
            },
        }
    ),
    "Queue": record(
        {
            **dict.fromkeys(("activeCount", "waitingCount", "delayedCount", "completedCount", "failedCount"), COUNT),
            "details": record(
                {
                    **dict.fromkeys(
                        ("held", "paused", "open_messages", "dead_letters", "threads", "oldest_wait"), COUNT
                    ),
                    "circuits": {
                        "type": "array",
                        "items": record(
                            {
                                **dict.fromkeys(("code", "message", "endpoint", "details", "remedy"), TEXT),
                                **dict.fromkeys(("since", "probe_at"), NUMBER),
                            },
                            may_miss=("endpoint", "details", "remedy", "probe_at"),
                        ),
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
            "remedy": TEXT,
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
            "tools": _TOOLS,
            "parameters": ANYTHING,
            "fallbacks": TEXTS,
            "background": FLAG,
            "show_reasoning": FLAG,
            "metadata": ANYTHING,
            "version": COUNT,
            "created_at": NUMBER,
        }
    ),
    "Assistants": record({"assistants": many("Assistant"), "default": optional(TEXT)}),
    "Chat": {
        "type": "object",
        "properties": {
            "id": TEXT,
            "messages": {"type": "array", "items": ANYTHING},
            "trigger": TEXT,
            "messageId": TEXT,
        },
        "required": ["id", "messages"],
    },
    "RunAgentInput": {
        "type": "object",
        "properties": {"threadId": TEXT, "messages": {"type": "array", "items": ANYTHING}},
        "required": ["threadId"],
    },
    "Conversation": record(
        {
            "messages": {"type": "array", "items": ANYTHING},
            "activeRun": optional(ANYTHING),
            "interrupts": optional(ANYTHING),
        }
    ),
    "UiMessages": record({"messages": {"type": "array", "items": ANYTHING}}),
    "Keys": record({"keys": many("Key")}),
    "Key": {
        "type": "object",
        "properties": {
            "id": TEXT,
            "name": TEXT,
            "scopes": TEXTS,
            "channels": optional(TEXTS),
            "created_at": NUMBER,
            "expires_at": optional(NUMBER),
            "revoked_at": optional(NUMBER),
        },
    },
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
    "ForeignBody": {"type": "object", "description": "As the API of this dialect describes it."},
    "ForeignAnswer": {"type": "object", "description": "As the API of this dialect describes it."},
    "OpenApi": {"type": "object", "properties": {"openapi": {"const": "3.1.0"}}, "required": ["openapi", "paths"]},
}  # fmt: skip
