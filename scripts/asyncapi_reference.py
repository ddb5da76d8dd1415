"""Write docs/reference/asyncapi.json, what is said on the socket and AMQP: `python scripts/asyncapi_reference.py`.

What goes in is what the doors read: the table of socket actions, and the bodies of the OpenAPI document. What comes out
is the frame of docs/reference/wire.md; a test compares its schema with frames that a server has sent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from turnkeep.doors.http.schemas import SCHEMAS
from turnkeep.doors.socket.socket_actions import ACTIONS

FILE = Path(__file__).parent.parent / "docs" / "reference" / "asyncapi.json"
Json = dict[str, Any]

TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
CALL = {
    "type": "object",
    "required": ["call_id", "name", "arguments", "digest", "kind"],
    "properties": {
        **dict.fromkeys(("call_id", "name", "arguments", "digest", "decision", "output", "by"), TEXT),
        "kind": {"enum": ["approval", "output"]},
        "self_approval": FLAG,
        "show": {"enum": ["arguments", "all"]},
        "withheld": FLAG,
    },
}
FRAME: Json = {
    "type": "object",
    "description": "One event of a channel. `type` and `status` say which; see docs/reference/wire.md.",
    "required": ["message", "timestamp", "status", "type", "message_id", "thread_id", "channel"],
    "properties": {
        "message": {**TEXT, "description": "Of `response`: the whole text so far, or empty with `text: delta`."},
        "timestamp": NUMBER,
        "status": TEXT,
        "type": {"enum": ["status", "response", "error"]},
        "final_message": {**FLAG, "description": "The turn has ended with this frame. Not on errors."},
        "message_id": {"type": ["string", "null"]},
        "thread_id": {"type": ["string", "null"]},
        "channel": TEXT,
        "offset": {
            "type": "integer",
            "description": "With `epoch` the position to resume from. Absent beside the log.",
        },
        "epoch": TEXT,
        "more": {"const": True, "description": "Another frame of the same event follows."},
        "run_id": {"type": ["string", "null"]},
        "attempt": {"type": "integer"},
        "message_ids": {"type": "array", "items": TEXT},
        "delta": TEXT,
        "snapshot": {"const": True, "description": "This text replaces what was shown."},
        "outcome": {"enum": ["completed", "cancelled", "incomplete", "applied", "deferred"]},
        "usage": {"type": "object"},
        "author": TEXT,
        "tools": {"type": "array", "items": TEXT},
        "calls": {"type": "array", "items": {"$ref": "#/components/schemas/FrameCall"}},
        "error_details": TEXT,
        "code": TEXT,
        "recovered": FLAG,
        "top": {"type": "integer"},
    },
    "if": {"properties": {"type": {"const": "error"}}},
    "then": {"required": ["error_details"]},
    "else": {"required": ["final_message"]},
}


def document() -> Json:
    """The whole document."""
    actions = {f"action_{name}": _action(name, action.scope) for name, action in sorted(ACTIONS.items())}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "turnkeep: socket and AMQP",
            "version": "1",
            "description": "What may be said on /ws and RabbitMQ, and what comes back. For HTTP: OpenAPI.",
            "license": {"name": "MIT"},
        },
        "servers": {
            "socket": {"host": "127.0.0.1:8080", "protocol": "ws", "pathname": "/ws"},
            "rabbitmq": {"host": "127.0.0.1:5672", "protocol": "amqp"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "socket": {
                "servers": [{"$ref": "#/servers/socket"}],
                "address": "/ws",
                "messages": _messages("message", *actions, "frame"),
            },
            "inbox": {
                "servers": [{"$ref": "#/servers/rabbitmq"}],
                "address": "cosmo_queue",
                "description": "QUEUE_NAME, bound to EXCHANGE_NAME by ROUTING_KEY.",
                "messages": _messages("message"),
            },
            "replies": {
                "servers": [{"$ref": "#/servers/rabbitmq"}],
                "address": None,
                "description": "TURNKEEP_AMQP_REPLY_EXCHANGE: final frames.",
                "messages": _messages("frame"),
            },
        },
        "operations": {
            "say": _operation("receive", "socket", "message", *actions),
            "hear": _operation("send", "socket", "frame"),
            "take": _operation("receive", "inbox", "message"),
            "reply": _operation("send", "replies", "frame"),
        },
        "components": {
            "messages": {"message": _said("Sent"), "frame": _said("Frame"), **actions},
            "schemas": {**_schemas(), "FrameCall": CALL, "Frame": FRAME, "Sent": _sent()},
        },
    }


def _schemas() -> Json:
    """Those of the OpenAPI document that what is sent refers to."""
    text = json.dumps(SCHEMAS["NewMessage"])
    wanted = {"NewMessage", *(name for name in SCHEMAS if f'"#/components/schemas/{name}"' in text)}
    return {name: SCHEMAS[name] for name in SCHEMAS if name in wanted}


def _sent() -> Json:
    """A message that names its channel."""
    channel = {"type": "object", "required": ["channel"], "properties": {"channel": TEXT}}
    return {"allOf": [channel, {"$ref": "#/components/schemas/NewMessage"}]}


def _action(name: str, scope: str | None) -> Json:
    needs = f"Needs the scope `{scope}`." if scope else "Needs any credential."
    fields = {"action": {"const": name}, "channel": TEXT, "idempotency_key": TEXT}
    return {"name": name, "summary": needs, "payload": {"type": "object", "required": ["action"], "properties": fields}}


def _said(schema: str) -> Json:
    return {"payload": {"$ref": f"#/components/schemas/{schema}"}}


def _messages(*names: str) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operation(act: str, channel: str, *names: str) -> Json:
    messages = [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]
    return {"action": act, "channel": {"$ref": f"#/channels/{channel}"}, "messages": messages}


def text() -> str:
    return json.dumps(document(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
