"""What OpenAI's SDKs send once more by themselves, because a reply was lost. They name no request, but they say that it
is sent again: then what was written last is looked at before it is written twice. Who names it is known by the name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai.thread_objects import RUN_PREFIX
from turnkeep.errors import MessageConflict
from turnkeep.messages import Address, Content, UserItem

RETRY_HEADER = "x-stainless-retry-count"


def is_retry(call: HttpCall) -> bool:
    if call.once is not None:  # its name tells it for sure
        return False
    count = call.request.headers.get(RETRY_HEADER, "0")
    return count.isdigit() and count.strip("0") != ""


async def find_written(call: HttpCall, address: Address, content: Content) -> str | None:
    """The id of the message that was written last, if this is a retry that says the same."""
    if not is_retry(call):
        return None
    async for message_id, newest in _newest_first(call, address):
        if newest:  # runs have no words
            return message_id if newest == content else None
    return None


async def is_written(call: HttpCall, address: Address, message_id: str, content: Content) -> bool:
    """Whether this message is there already, whose id comes of the name that its caller gave the request. Raises
    `MessageConflict` where it says something else.
    """
    async for before_id, before in _newest_first(call, address):
        if before_id == message_id:
            if before != content:
                raise MessageConflict("this Idempotency-Key was used for another text, use a new one")
            return True
    return False


async def find_run(call: HttpCall, address: Address) -> str | None:
    """The run that was begun last, if this is a retry and nothing was said since."""
    if is_retry(call):
        async for message_id, _ in _newest_first(call, address):
            return message_id if message_id.startswith(RUN_PREFIX) else None
    return None


async def _newest_first(call: HttpCall, address: Address) -> AsyncIterator[tuple[str, Content]]:
    store = call.application.store
    for record in reversed(await store.open_messages(address)):
        if record.message is not None and record.status != "delayed":
            yield record.message_id, record.message.content
    if await store.thread(address) is not None:
        for entry in reversed((await store.history(address)).entries):
            if isinstance(entry.item, UserItem):
                yield entry.item.message_id or "", entry.item.content
