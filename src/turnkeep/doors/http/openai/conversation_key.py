"""Which conversation a request of OpenAI's kind belongs to: clients say it in several ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from turnkeep.auth.principals import Scope
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.errors import InvalidMessage, NotFound, ThreadNotFound
from turnkeep.inputs import checked_channel
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.values import ThreadRecord

CONVERSATION_HEADERS = ("x-conversation-id", "x-openwebui-chat-id")
_OUR_MESSAGE = re.compile(r"msg_[0-9a-f]{24}")

TASK_HEADER = "x-task"
TASK_BEGINNINGS = (
    "### Task:",  # Open WebUI: title, tags, follow-up questions, search queries
    "Provide a concise, 5-word-or-less title for the conversation",  # LibreChat, by `completion`
    "Analyze this conversation and provide:",  # LibreChat, by `structured`
)
"""What front ends ask of a model beside a conversation. They send it with the key of the conversation."""


@dataclass(frozen=True, slots=True)
class AnswerName:
    """What the id of an answer says: thread, message, and which answer of its turn: each round of
    outputs that the caller gives begins another.

    Nothing is kept for it, so that every process finds the answer.
    """

    thread_id: str
    message_id: str
    segment: int = 0

    def id(self, prefix: str) -> str:
        message = self.message_id
        # A message of another door may have any id.
        tail = message.removeprefix("msg_") if _OUR_MESSAGE.fullmatch(message) else f"x{message.encode().hex()}"
        return f"{prefix}_{self.segment:02x}{self.thread_id.removeprefix('thread_')}_{tail}"

    @classmethod
    def read(cls, text: object) -> AnswerName:
        """Raises `NotFound` for what is no id of ours."""
        refusal = NotFound(f"there is no response {str(text)[:80]!r}")
        if not isinstance(text, str) or not text.startswith(("resp_", "chatcmpl_")):
            raise refusal
        head, _, tail = text.partition("_")[2].rpartition("_")
        try:
            message = bytes.fromhex(tail[1:]).decode() if tail.startswith("x") else f"msg_{tail}"
            name = cls(f"thread_{head[2:]}", message, int(head[:2], 16))
        except ValueError:
            raise refusal from None
        # One spelling for each: what is read is what would be written.
        if name.id(text.partition("_")[0]) != text:
            raise refusal
        return name


def is_beside(call: HttpCall, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a title, tags or the like are wanted: that must never enter the conversation."""
    if call.request.headers.get(TASK_HEADER):
        return True
    users = [one.get("content") for one in messages if one.get("role") in ("user", "assistant")]
    return len(users) == 1 and isinstance(users[0], str) and users[0].lstrip().startswith(TASK_BEGINNINGS)


def conversation_of(call: HttpCall, body: Mapping[str, Any]) -> Address | None:
    """The channel that the request names: by `conversation`, `metadata.channel`, a header, or, where
    the operator says so, `prompt_cache_key` or `user`. None: it stands for itself.
    """
    channel = _channel(call, body)
    if channel is None:
        return None
    address = call.application.address(checked_channel(channel), call.principal.tenant)
    for scope in ("send", "read"):
        call.principal.require(scope, address.channel)
    return address


def _channel(call: HttpCall, body: Mapping[str, Any]) -> object:
    conversation = body.get("conversation")
    if isinstance(conversation, Mapping):
        conversation = conversation.get("id")
    if conversation is not None:
        return conversation
    metadata = body.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("channel") is not None:
        return metadata["channel"]
    for header in CONVERSATION_HEADERS:
        if value := call.request.headers.get(header):
            return value
    if call.application.settings.openai_conversations == "any":
        for name in ("prompt_cache_key", "user"):
            if (value := body.get(name)) is not None:
                return value
    return None


async def thread_of(call: HttpCall, thread_id: str, *scopes: Scope) -> ThreadRecord:
    """The thread of an id, if the credential reaches it by its id or its channel. Raises
    `NotAllowed`, `ThreadNotFound`.
    """
    address = call.application.address(thread_id, call.principal.tenant)
    record = await call.application.store.thread(address) if address.names_thread else None
    names = [thread_id] if record is None else [thread_id, record.address.channel]
    channel = next((name for name in names if call.principal.reaches(name)), thread_id)
    # Before it is said whether it is there: who does not reach it learns nothing of it.
    for scope in scopes:
        call.principal.require(scope, channel)
    if record is None:
        raise ThreadNotFound(f"No thread found with id '{thread_id[:80]}'.")
    return record


def without_channel(metadata: object) -> dict[str, Any]:
    """The metadata of a request without what named its channel."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidMessage("'metadata' must be an object")
    return {name: value for name, value in metadata.items() if name != "channel"}
