"""The HTTP door, `/api`: send, look up, edit, withdraw, stop, decide; threads, assistants, dead letters.

Every route is authenticated, reads strictly, and answers errors as `{"error": {code, message}}` with the status of
`answers`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from turnkeep.doors.access import Access, Principal
from turnkeep.doors.answers import retry_after, status_of, told
from turnkeep.doors.intake import checked_channel, optional_text, read_content, read_json, read_message
from turnkeep.doors.limits import Limits
from turnkeep.doors.websocket import decide
from turnkeep.errors import InvalidMessage, MessageTooLarge, NotFound, Rejected, ThreadNotFound, TurnkeepError
from turnkeep.messages import Address, item_to_json
from turnkeep.queue import AssistantMessageQueue
from turnkeep.store.base import DeadLetter, MessageRecord, RunRecord, ThreadRecord
from turnkeep.telemetry import get_log

log = get_log(__name__)


class JSON(JSONResponse):
    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def refused(error: TurnkeepError) -> Response:
    headers = {}
    if (seconds := retry_after(error)) is not None:
        headers["Retry-After"] = str(max(1, round(seconds)))
    return JSON({"error": told(error)}, status_code=status_of(error), headers=headers)


class Call:
    """One authenticated request."""

    def __init__(self, request: Request, principal: Principal, queue: AssistantMessageQueue, limits: Limits) -> None:
        self.request = request
        self.principal = principal
        self.queue = queue
        self.limits = limits

    @property
    def address(self) -> Address:
        channel = checked_channel(self.request.path_params["channel"])
        return self.queue.address(channel, self.principal.tenant)

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def allow_send(self) -> Address:
        self.principal.require("send", self.address.channel)
        return self.address

    def allow_read(self) -> Address:
        self.principal.require("read", self.address.channel)
        return self.address

    async def body(self, *, empty: bool = False) -> dict[str, Any]:
        """The JSON object that was sent. Read piece by piece, and no further than the limit."""
        limit, data = self.limits.frame_bytes, bytearray()
        async for chunk in self.request.stream():
            data += chunk
            if len(data) > limit:
                raise MessageTooLarge(f"the body has more than the {limit} bytes that are read")
        if empty and not data.strip():
            return {}
        return read_json(bytes(data), limit=limit)

    def number(self, name: str, default: int, largest: int) -> int:
        text = self.request.query_params.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or int(text[:20]) > largest:
            raise InvalidMessage(f"'{name}' must be a whole number from 0 to {largest}")
        return int(text)


Handler = Callable[[Call], Awaitable[Response]]


class HttpDoor:
    """The routes, bound to a queue."""

    def __init__(self, queue: AssistantMessageQueue, access: Access, limits: Limits) -> None:
        self._queue = queue
        self._access = access
        self._limits = limits

    def routes(self) -> list[Route]:
        channel = "/api/channels/{channel:path}"
        table: list[tuple[str, str, Handler]] = [
            ("POST", channel + "/messages", send),
            ("GET", channel + "/messages", list_messages),
            ("GET", channel + "/messages/{message_id}", show_message),
            ("PATCH", channel + "/messages/{message_id}", edit_message),
            ("DELETE", channel + "/messages/{message_id}", withdraw_message),
            ("POST", channel + "/cancel", cancel),
            ("POST", channel + "/flush", flush),
            ("POST", channel + "/pause", pause),
            ("POST", channel + "/resume", resume),
            ("POST", channel + "/actions/{call_id}", act),
            ("GET", channel + "/runs", list_runs),
            ("GET", channel, show_channel),
            ("PATCH", channel, change_channel),
            ("DELETE", channel, forget_channel),
            ("GET", "/api/queue", show_queue),
            ("GET", "/api/dead", list_dead),
            ("GET", "/api/dead/{dead_id}", show_dead),
            ("POST", "/api/dead/{dead_id}/redrive", redrive),
            ("DELETE", "/api/dead/{dead_id}", discard),
            ("GET", "/api/assistants", list_assistants),
            ("POST", "/api/assistants", create_assistant),
            ("GET", "/api/assistants/{assistant_id}", show_assistant),
            ("PATCH", "/api/assistants/{assistant_id}", change_assistant),
            ("DELETE", "/api/assistants/{assistant_id}", delete_assistant),
            ("POST", "/api/assistants/{assistant_id}/use", use_assistant),
            ("GET", "/api/threads", list_threads),
            ("POST", "/api/threads", create_thread),
        ]
        return [Route(path, self.endpoint(handler), methods=[method]) for method, path, handler in table]

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Authenticate, act, and tell what went wrong: the one place of this door that catches everything."""

        async def answer(request: Request) -> Response:
            try:
                principal = await self._access.authenticate(request.headers, cookies=request.cookies)
                return await handler(Call(request, principal, self._queue, self._limits))
            except TurnkeepError as error:
                return refused(error)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception:
                log.exception("request_broke", door="http", route=request.url.path[:80])
                return refused(TurnkeepError())

        return answer


# ---------------------------------------------------------------- messages


async def send(call: Call) -> Response:
    address = call.allow_send()
    body = await call.body()
    key = call.request.headers.get("idempotency-key")
    if key is not None and "message_id" not in body:
        body["message_id"] = key
    message = read_message(body, address, limit=call.limits.message_bytes)
    call.limits.check_rate(call.principal, address)
    [outcome] = await call.queue.accept([message], create=call.limits.creates(address))
    if isinstance(outcome, Rejected):
        raise outcome
    return JSON(outcome.to_json(), status_code=200 if outcome.repeated else 202)


async def list_messages(call: Call) -> Response:
    address = call.allow_read()
    await existing(call, address)
    history = await call.queue.store.history(address, items=call.number("limit", 200, 2_000))
    waiting = await call.queue.store.open_messages(address)
    return JSON(
        {
            "items": [{"turn": e.turn, "at": e.at, **item_to_json(e.item)} for e in history.entries],
            "summary": history.summary,
            "complete": history.complete,
            "open": [message_json(record) for record in waiting],
        }
    )


async def show_message(call: Call) -> Response:
    record = await call.queue.store.message(call.allow_read(), call.path("message_id"))
    if record is None:
        raise NotFound("no such message, or it was forgotten")
    return JSON(message_json(record))


async def edit_message(call: Call) -> Response:
    address = call.allow_send()
    content = read_content(await call.body())
    return JSON(message_json(await call.queue.store.edit(address, call.path("message_id"), content)))


async def withdraw_message(call: Call) -> Response:
    return JSON(message_json(await call.queue.store.withdraw(call.allow_send(), call.path("message_id"))))


# ---------------------------------------------------------------- turns


async def cancel(call: Call) -> Response:
    address = call.allow_send()
    body = await call.body(empty=True)
    if body.get("inbox", "keep") not in ("keep", "drop"):
        raise InvalidMessage("'inbox' must be keep or drop")
    return JSON({"cancelled": await call.queue.store.cancel(address, drop_inbox=body.get("inbox") == "drop")})


async def flush(call: Call) -> Response:
    return JSON({"flushed": await call.queue.store.flush(call.allow_send())})


async def pause(call: Call) -> Response:
    address = call.allow_send()
    await existing(call, address)
    await call.queue.store.pause(address)
    return JSON({"paused": True})


async def resume(call: Call) -> Response:
    address = call.allow_send()
    await existing(call, address)
    await call.queue.store.resume(address)
    return JSON({"paused": False})


async def act(call: Call) -> Response:
    address = call.allow_send()
    body = await call.body() | {"call_id": call.path("call_id")}
    return JSON(await decide(call.queue, address, body, by=call.principal.subject))


async def list_runs(call: Call) -> Response:
    address = call.allow_read()
    await existing(call, address)
    return JSON({"runs": [run_json(run) for run in await call.queue.store.runs(address)]})


# ---------------------------------------------------------------- channels


async def existing(call: Call, address: Address) -> ThreadRecord:
    record = await call.queue.store.thread(address)
    if record is None:
        raise ThreadNotFound("there is no such thread")
    return record


async def show_channel(call: Call) -> Response:
    return JSON(thread_json(await existing(call, call.allow_read())))


async def change_channel(call: Call) -> Response:
    address = call.allow_send()
    body = await call.body()
    if unknown := set(body) - {"metadata", "assistant"}:
        raise InvalidMessage(f"only metadata and assistant can be changed, not {', '.join(sorted(unknown))[:200]}")
    changes: dict[str, Any] = {}
    if "assistant" in body:
        assistant_id = optional_text(body, "assistant", 200)
        if assistant_id is not None:
            await call.queue.assistants.get(call.principal.tenant, assistant_id)
        changes["assistant"] = assistant_id
    if "metadata" in body:
        changes["metadata"] = _metadata(body["metadata"])
    await existing(call, address)
    return JSON(thread_json(await call.queue.store.update(address, changes)))


def _metadata(value: object) -> dict[str, str | None]:
    fits = isinstance(value, dict) and len(value) <= 16
    if not fits or not isinstance(value, dict):
        raise InvalidMessage("'metadata' must be an object of at most 16 texts")
    for name, text in value.items():
        if text is not None and (not isinstance(text, str) or len(text) > 512 or len(name) > 64):
            raise InvalidMessage("'metadata' holds texts of at most 512 characters, or null to remove one")
    return value


async def forget_channel(call: Call) -> Response:
    address = call.allow_send()
    force = call.request.query_params.get("force") == "true"
    if not await call.queue.store.forget(address, force=force):
        raise ThreadNotFound("there is no such thread")
    return Response(status_code=204)


async def list_threads(call: Call) -> Response:
    call.principal.require("admin")
    limit = call.number("limit", 100, 1_000)
    found = []
    async for record in call.queue.store.scan(tenant=call.principal.tenant, queue=call.queue.name):
        found.append(thread_json(record))
        if len(found) >= limit:
            break
    return JSON({"threads": found})


async def create_thread(call: Call) -> Response:
    call.principal.require("send")
    body = await call.body(empty=True)
    metadata = {k: v for k, v in _metadata(body.get("metadata", {})).items() if v is not None}
    record = await call.queue.create_thread(metadata=metadata, tenant=call.principal.tenant)
    return JSON(thread_json(record), status_code=201)


# ---------------------------------------------------------------- queue, dead letters


async def show_queue(call: Call) -> Response:
    call.principal.require("read")
    counts = await call.queue.store.counts(tenant=call.principal.tenant, queue=call.queue.name)
    circuits = await call.queue.store.circuits()
    return JSON(
        {
            "activeCount": counts.active,
            "waitingCount": counts.waiting,
            "delayedCount": counts.delayed,
            "completedCount": counts.completed,
            "failedCount": counts.failed,
            "details": {
                "held": counts.held,
                "paused": counts.paused,
                "open_messages": counts.open_messages,
                "dead_letters": counts.dead_letters,
                "threads": counts.threads,
                "circuits": [
                    {"code": c.fault.code, "message": c.fault.message, "since": c.opened_at} for c in circuits
                ],
            },
        }
    )


async def list_dead(call: Call) -> Response:
    call.principal.require("admin")
    after = call.request.query_params.get("after", "")
    letters = await call.queue.store.dead(
        tenant=call.principal.tenant, queue=call.queue.name, after=after[:200], limit=call.number("limit", 100, 1_000)
    )
    return JSON({"dead": [dead_json(letter) for letter in letters]})


async def letter_of(call: Call) -> DeadLetter:
    call.principal.require("admin")
    letter = await call.queue.store.dead_letter(call.path("dead_id"))
    if letter is None or letter.address.tenant != call.principal.tenant:
        raise NotFound("no such dead letter")
    return letter


async def show_dead(call: Call) -> Response:
    return JSON(dead_json(await letter_of(call)))


async def redrive(call: Call) -> Response:
    letter = await letter_of(call)
    receipt = await call.queue.store.redrive(letter.dead_id)
    return JSON(receipt.to_json(), status_code=202)


async def discard(call: Call) -> Response:
    await call.queue.store.discard((await letter_of(call)).dead_id)
    return Response(status_code=204)


# ---------------------------------------------------------------- assistants


async def list_assistants(call: Call) -> Response:
    call.principal.require("read")
    found = await call.queue.assistants.list(call.principal.tenant)
    default = await call.queue.assistants.default(call.principal.tenant)
    return JSON({"assistants": [a.to_json() for a in found], "default": default.assistant_id if default else None})


async def create_assistant(call: Call) -> Response:
    call.principal.require("admin")
    values = assistant_fields(await call.body(empty=True))
    created = await call.queue.assistants.create(call.principal.tenant, values, now=call.queue.clock.now())
    return JSON(created.to_json(), status_code=201)


async def show_assistant(call: Call) -> Response:
    call.principal.require("read")
    return JSON((await call.queue.assistants.get(call.principal.tenant, call.path("assistant_id"))).to_json())


async def change_assistant(call: Call) -> Response:
    call.principal.require("admin")
    body = await call.body()
    version = body.pop("version", None)
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise InvalidMessage("'version' must be a whole number")
    values = assistant_fields(body)
    changed = await call.queue.assistants.change(
        call.principal.tenant, call.path("assistant_id"), values, version=version
    )
    return JSON(changed.to_json())


async def delete_assistant(call: Call) -> Response:
    call.principal.require("admin")
    if not await call.queue.assistants.delete(call.principal.tenant, call.path("assistant_id")):
        raise NotFound("no such assistant")
    return Response(status_code=204)


async def use_assistant(call: Call) -> Response:
    call.principal.require("admin")
    return JSON((await call.queue.assistants.use(call.principal.tenant, call.path("assistant_id"))).to_json())


def assistant_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a profile, checked."""
    known = {"model", "name", "instructions", "tools", "parameters", "fallbacks", "metadata"}
    if unknown := set(body) - known:
        raise InvalidMessage(f"an assistant has no field {', '.join(sorted(unknown))[:200]}")
    values: dict[str, Any] = {}
    for name, longest in (("model", 200), ("name", 200), ("instructions", 100_000)):
        if (text := optional_text(body, name, longest)) is not None:
            values[name] = text
    for name in ("tools", "fallbacks"):
        if name in body:
            values[name] = _names(name, body[name])
    for name in ("parameters", "metadata"):
        if name in body:
            if not isinstance(body[name], dict) or len(body[name]) > 64:
                raise InvalidMessage(f"'{name}' must be an object")
            values[name] = body[name]
    return values


def _names(name: str, value: object) -> list[str] | None:
    if value is None and name == "tools":
        return None
    if (
        not isinstance(value, list)
        or len(value) > 200
        or not all(isinstance(v, str) and 0 < len(v) <= 200 for v in value)
    ):
        raise InvalidMessage(f"'{name}' must be a list of names")
    return value


# ---------------------------------------------------------------- JSON forms


def message_json(record: MessageRecord) -> dict[str, Any]:
    data: dict[str, Any] = {
        "message_id": record.message_id,
        "status": record.status,
        "run_id": record.run_id,
        "covers": list(record.covers),
        "settled_at": record.settled_at,
        "receipt": record.receipt.to_json(),
    }
    if record.steer:
        data["steer"] = record.steer
    if record.message is not None:
        data["content"] = [part.to_json() for part in record.message.content]
        data["arrival"] = record.message.arrival or None
    return data


def run_json(run: RunRecord) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "status": run.status,
        "message_ids": list(run.message_ids),
        "attempt": run.attempt,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "model": run.model,
        "usage": {**run.usage.to_json(), "cost": run.usage.cost},
        "error": run.fault.to_json() if run.fault else None,
        "calls": [held.to_json() for held in run.calls],
    }


def thread_json(record: ThreadRecord) -> dict[str, Any]:
    data = asdict(record)
    del data["address"], data["options"]
    data |= {
        "channel": record.address.channel,
        "queue": record.address.queue,
        "metadata": dict(record.metadata),
        "usage": {**record.usage.to_json(), "cost": record.usage.cost},
        "calls": [held.to_json() for held in record.calls],
    }
    return data


def dead_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "dead_id": letter.dead_id,
        "channel": letter.address.channel,
        "thread_id": letter.thread_id,
        "message_id": letter.message.message_id,
        "content": [part.to_json() for part in letter.message.content],
        "error": letter.fault.to_json(),
        "attempts": letter.attempts,
        "deaths": letter.deaths,
        "run_id": letter.run_id,
        "at": letter.at,
    }
