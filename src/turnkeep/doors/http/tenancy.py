"""What can be done with a whole tenant over HTTP: its threads, counts, dead letters and assistants."""

from __future__ import annotations

from typing import Any, cast, get_args

from starlette.responses import Response

from turnkeep.assistant_input import assistant_fields
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.cursors import MAX_SEARCH, cursor_behind, read_cursor
from turnkeep.doors.http.endpoint import HttpCall, audit, dead_json, thread_json
from turnkeep.errors import InvalidMessage, NotFound
from turnkeep.inputs import read_metadata
from turnkeep.store.passages import Passage, TextSearch
from turnkeep.store.thread_search import ThreadPlace, ThreadSearch
from turnkeep.store.values import DeadLetter, Receipt


async def list_threads(call: HttpCall) -> Response:
    """By their last activity, newest first; `next` is what to give as `after` for those behind."""
    limit = call.number("limit", 100, 1_000)
    query = ThreadSearch(
        tenant=call.principal.tenant,
        queue=call.application.name,
        place=cast("ThreadPlace | None", call.word("state", *get_args(ThreadPlace))),
        text=call.request.query_params.get("q", "")[:MAX_SEARCH],
        before=read_cursor(call),
        # one more than is shown says whether there are more
        limit=limit + 1,
    )
    records = await call.application.store.search(query)
    page = records[:limit]
    last = page[-1] if page and len(records) > limit else None
    after = cursor_behind(last.active_at, last.thread_id) if last else None
    return JsonResponse(
        {"threads": [thread_json(record, in_full=call.principal.sees_calls) for record in page], "next": after}
    )


async def search(call: HttpCall) -> Response:
    """What messages and answers say of a text, newest first, in a bounded number of the newest."""
    text = call.request.query_params.get("q", "").strip()
    if not 2 <= len(text) <= MAX_SEARCH:
        raise InvalidMessage(f"'q' is the text to look for, of 2 to {MAX_SEARCH} characters")
    query = TextSearch(text, call.principal.tenant, call.application.name, limit=call.number("limit", 50, 500))
    passages = await call.application.store.find_passages(query)
    return JsonResponse({"passages": [_passage_json(passage) for passage in passages]})


def _passage_json(passage: Passage) -> dict[str, Any]:
    return {
        "channel": passage.address.channel,
        "turn": passage.turn,
        "at": passage.at,
        "kind": passage.kind,
        "excerpt": passage.excerpt,
    }


async def create_thread(call: HttpCall) -> Response:
    body = await call.body(empty=True)
    record = await call.make_thread(metadata=read_metadata(body.get("metadata", {})))
    return JsonResponse(thread_json(record, in_full=call.principal.sees_calls), status_code=201)


async def list_dead(call: HttpCall) -> Response:
    after = call.request.query_params.get("after", "")
    letters = await call.application.store.dead(
        tenant=call.principal.tenant,
        queue=call.application.name,
        after=after[:200],
        limit=call.number("limit", 100, 1_000),
    )
    return JsonResponse({"dead": [dead_json(letter) for letter in letters]})


async def letter_of(call: HttpCall) -> DeadLetter:
    letter = await call.application.store.dead_letter(call.path("dead_id"))
    if letter is None or letter.address.tenant != call.principal.tenant:
        raise NotFound("no such dead letter")
    return letter


async def show_dead(call: HttpCall) -> Response:
    return JsonResponse(dead_json(await letter_of(call)))


async def redrive(call: HttpCall) -> Response:
    letter = await call.application.store.dead_letter(call.path("dead_id"))
    if letter is not None and letter.address.tenant != call.principal.tenant:
        raise NotFound("no such dead letter")
    receipt = await call.application.store.redrive(call.path("dead_id"))
    if letter is None:  # it was sent again before: a repeat, if it was ours
        await _own_receipt(call, receipt)
    return JsonResponse(receipt.to_json(), status_code=202)


async def _own_receipt(call: HttpCall, receipt: Receipt) -> None:
    """Raises `NotFound` for the receipt of another tenant."""
    where = call.application.address(receipt.channel, call.principal.tenant)
    if await call.application.store.message(where, receipt.message_id) is None:
        raise NotFound("no such dead letter")


async def discard(call: HttpCall) -> Response:
    await call.application.store.discard((await letter_of(call)).dead_id, once=call.once)
    return Response(status_code=204)


async def list_assistants(call: HttpCall) -> Response:
    assistants = await call.application.assistants.list(call.principal.tenant)
    default = await call.application.assistants.default(call.principal.tenant)
    default_id = default.assistant_id if default else None
    return JsonResponse({"assistants": [one.to_public() for one in assistants], "default": default_id})


async def create_assistant(call: HttpCall) -> Response:
    values = assistant_fields(await call.body(empty=True))
    assistant = await call.application.assistants.create(
        call.principal.tenant, values, now=call.application.clock.now()
    )
    await audit(call, "assistant_created", assistant=assistant.assistant_id, fields=values)
    return JsonResponse(assistant.to_public(), status_code=201)


async def show_assistant(call: HttpCall) -> Response:
    return JsonResponse(
        (await call.application.assistants.get(call.principal.tenant, call.path("assistant_id"))).to_public()
    )


async def change_assistant(call: HttpCall) -> Response:
    body = await call.body()
    version = body.pop("version", None)
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise InvalidMessage("'version' must be a whole number")
    values = assistant_fields(body)
    assistant = await call.application.assistants.change(
        call.principal.tenant, call.path("assistant_id"), values, version=version
    )
    await audit(call, "assistant_changed", assistant=assistant.assistant_id, fields=values)
    return JsonResponse(assistant.to_public())


async def delete_assistant(call: HttpCall) -> Response:
    assistant_id = call.path("assistant_id")
    if not await call.application.assistants.delete(call.principal.tenant, assistant_id):
        raise NotFound("no such assistant")
    await audit(call, "assistant_deleted", assistant=assistant_id)
    return Response(status_code=204)


async def use_assistant(call: HttpCall) -> Response:
    assistant = await call.application.assistants.use(call.principal.tenant, call.path("assistant_id"))
    await audit(call, "assistant_used", assistant=assistant.assistant_id)
    return JsonResponse(assistant.to_public())
