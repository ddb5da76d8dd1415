"""`TurnkeepClient`: what HTTP can, as methods that may be repeated without harm."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Never, Self, Unpack
from urllib.parse import urlencode

from turnkeep.client.server_link import JsonObject, ServerLink, StreamState, error_of, path_of
from turnkeep.errors import ConfigurationError, NoAnswer, NotFound
from turnkeep.seconds import SecondsLimit
from turnkeep.spelling import strangers_sentence
from turnkeep.wishes import Wishes

TIMEOUT = SecondsLimit(7_200.0)
OPTIONS = ("base_url", "api_key", "patience")
REPEAT_STATUS = 200
"""The status of a receipt whose message was there before; that of a new one is 202."""


class TurnkeepClient:
    """A server at `base_url`, with an API key or token.

    Every call waits until the server answers, for `patience` seconds, through restarts and lost
    connections; what changes something happens once however often it is repeated. Results are the
    JSON of the HTTP reference. Errors are those of `turnkeep.errors`, by their codes. Opens its
    connection on first use; `async with` or `close` ends it.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        api_key: str | None = None,
        *,
        patience: float = 60.0,
        **strangers: Never,
    ) -> None:
        if strangers:
            raise ConfigurationError(strangers_sentence("TurnkeepClient", strangers, OPTIONS))
        TIMEOUT.check("patience", patience)
        self._link = ServerLink(base_url, api_key, patience=patience)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. Safe to repeat."""
        await self._link.close()

    async def call(self, method: str, path: str, body: object = None, *, once: str | None = None) -> Any:
        """Any route of `/api` that has no method here: `await client.call("GET", "/api/queue")`.

        `once` names the call; without it a name is made, for the repeats of this call alone.
        """
        return await self._link.call(method, path, body, once=once)

    # ---------------------------------------------------------------- messages

    async def send(
        self,
        channel: str,
        message: str | Sequence[Mapping[str, Any]],
        *,
        message_id: str | None = None,
        instructions: str | None = None,
        **wishes: Unpack[Wishes],
    ) -> JsonObject:
        """Take a message in durably: its receipt. Parts of content are a list.

        Without a `message_id` one is made, so that the repeats of this call send one message; your
        own makes the next program that sends it harmless, too. `repeated` in the receipt says that
        the message was there before, be it from a repeat of this call whose answer was lost.
        """
        content = {"message": message} if isinstance(message, str) else {"content": list(message)}
        fields = {"message_id": message_id or f"msg_{secrets.token_hex(12)}", "instructions": instructions, **wishes}
        body = {**content, **{name: value for name, value in fields.items() if value is not None}}
        reply = await self._link.reply("POST", self._path(channel, "messages"), body)
        return {**reply.content, "repeated": reply.status == REPEAT_STATUS}

    async def ask(
        self,
        channel: str,
        message: str | Sequence[Mapping[str, Any]],
        *,
        timeout: float = 300.0,
        message_id: str | None = None,
        instructions: str | None = None,
        **wishes: Unpack[Wishes],
    ) -> str:
        """Send, and wait for the answer that covers this message, as text; without waiting for a
        window, unless `flush=False`.

        Raises the error that the answer ended with, `NotFound` if it was withdrawn, and `NoAnswer`
        (a `TimeoutError`).
        """
        TIMEOUT.check("timeout", timeout)
        message_id = message_id or f"msg_{secrets.token_hex(12)}"
        wishes.setdefault("flush", True)
        try:
            async with asyncio.timeout(timeout), aclosing(self.stream(channel, everything=True)) as frames:
                # subscribed first: an answer may come faster than a subscription
                await anext(frames)
                receipt = await self.send(channel, message, message_id=message_id, instructions=instructions, **wishes)
                if receipt["repeated"] and (text := await self._earlier_answer(channel, message_id)) is not None:
                    return text
                async for frame in frames:
                    if (text := _answer_in(frame, message_id)) is not None:
                        return text
        except TimeoutError:
            raise NoAnswer(
                f"no answer on channel {channel!r} within {timeout:g} s; message {message_id} is safe"
            ) from None
        raise AssertionError("a stream does not end")

    async def stream(
        self,
        channel: str,
        *,
        after: str | None = None,
        deltas: bool = False,
        everything: bool = False,
        on_state: Callable[[StreamState], object] = lambda _: None,
    ) -> AsyncGenerator[JsonObject, None]:
        """The frames of a channel, without end and without holes: from now, or after a position
        (`position_of` a frame).

        The first connection is waited for as any call is. One that is lost later is made again for
        as long as it takes, and goes on where it ended; no frame comes twice. `deltas`: each token
        by itself; `everything`: the life of messages, tools and steps too. `on_state` is told
        "live" and "away".
        """
        options = {"text": "delta" if deltas else None, "events": "all" if everything else None}
        query = urlencode({name: value for name, value in options.items() if value})
        path = self._path(channel, "events") + (f"?{query}" if query else "")
        async with aclosing(self._link.lasting_events(path, after or "", on_state)) as frames:
            async for frame in frames:
                yield frame

    async def get_message(self, channel: str, message_id: str) -> JsonObject:
        """What became of a message. Raises `NotFound`."""
        return await self._json("GET", self._path(channel, "messages", message_id))

    async def edit(self, channel: str, message_id: str, message: str, *, once: str | None = None) -> JsonObject:
        """Change a message until a run has begun to answer it: then `MessageFrozen`."""
        return await self._json("PATCH", self._path(channel, "messages", message_id), {"message": message}, once)

    async def withdraw(self, channel: str, message_id: str, *, once: str | None = None) -> JsonObject:
        """Take a message back until a run has begun to answer it: then `MessageFrozen`."""
        return await self._json("DELETE", self._path(channel, "messages", message_id), None, once)

    async def list_messages(self, channel: str, *, limit: int = 200) -> JsonObject:
        """The transcript (`items`) and what waits (`open`). Raises `ThreadNotFound`."""
        return await self._json("GET", self._path(channel, "messages") + f"?limit={limit:d}")

    # ---------------------------------------------------------------- turns

    async def flush(self, channel: str, *, once: str | None = None) -> bool:
        """Answer what waits now. False if nothing waits."""
        return bool((await self._json("POST", self._path(channel, "flush"), None, once))["flushed"])

    async def cancel(self, channel: str, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        """Stop the run in progress; what was shown stays. False if none was."""
        body = {"inbox": "drop" if drop_inbox else "keep"}
        return bool((await self._json("POST", self._path(channel, "cancel"), body, once))["cancelled"])

    async def pause(self, channel: str, *, once: str | None = None) -> None:
        """Let nobody answer until `resume`. Raises `ThreadNotFound`."""
        await self._json("POST", self._path(channel, "pause"), None, once)

    async def resume(self, channel: str, *, once: str | None = None) -> None:
        """Answer again. Raises `ThreadNotFound`."""
        await self._json("POST", self._path(channel, "resume"), None, once)

    async def regenerate(self, channel: str, *, once: str | None = None) -> list[JsonObject]:
        """Answer the last turn again, in place of the old answer: receipts of its messages."""
        receipts: list[JsonObject] = (await self._json("POST", self._path(channel, "regenerate"), None, once))[
            "receipts"
        ]
        return receipts

    async def decide(
        self,
        channel: str,
        call: Mapping[str, Any],
        decision: Literal["approved", "denied", "output"],
        output: str = "",
        *,
        once: str | None = None,
    ) -> JsonObject:
        """Decide about a call that waits: one of `get_thread(channel)["calls"]`, or of a frame's."""
        body = {"decision": decision, "output": output, "digest": call["digest"]}
        return await self._json("POST", self._path(channel, "actions", str(call["call_id"])), body, once)

    async def answer_as(self, channel: str, message: str, *, author: str, once: str | None = None) -> JsonObject:
        """Say something in the assistant's place, as a person who has taken over."""
        return await self._json("POST", self._path(channel, "answers"), {"message": message, "author": author}, once)

    async def list_runs(self, channel: str) -> list[JsonObject]:
        """The last runs, newest first. Raises `ThreadNotFound`."""
        runs: list[JsonObject] = (await self._json("GET", self._path(channel, "runs")))["runs"]
        return runs

    async def get_run(self, channel: str, run_id: str) -> JsonObject:
        """A run, and what happened in it as long as the log holds it. Raises `NotFound`."""
        return await self._json("GET", self._path(channel, "runs", run_id))

    # ---------------------------------------------------------------- threads

    async def get_thread(self, channel: str) -> JsonObject:
        """The thread behind a channel. Raises `ThreadNotFound`."""
        return await self._json("GET", self._path(channel))

    async def create_thread(self, *, metadata: Mapping[str, str] | None = None) -> JsonObject:
        """An empty thread, whose id is its channel. `OutcomeUnknown`: the answer was lost."""
        thread: JsonObject = await self._link.call(
            "POST", "/api/threads", {"metadata": dict(metadata or {})}, repeats=False
        )
        return thread

    async def change_thread(
        self, channel: str, changes: Mapping[str, Any], *, once: str | None = None
    ) -> JsonObject | None:
        """Change `metadata`, `assistant` or `options`. None for who may not read."""
        thread: JsonObject | None = await self._link.call("PATCH", self._path(channel), dict(changes), once=once)
        return thread

    async def forget(self, channel: str, *, force: bool = False, once: str | None = None) -> None:
        """Delete a thread and every word of it; with `force` also while it is at work."""
        await self._link.call("DELETE", self._path(channel) + ("?force=true" if force else ""), once=once)

    # ---------------------------------------------------------------- for who operates it

    async def list_threads(self, *, search: str = "", limit: int = 100, after: str = "") -> JsonObject:
        """Threads by their last activity; `next` is what to give as `after` for those behind."""
        query = urlencode(
            {name: value for name, value in {"q": search, "limit": limit, "after": after}.items() if value}
        )
        return await self._json("GET", f"/api/threads?{query}")

    async def search(self, text: str, *, limit: int = 50) -> list[JsonObject]:
        """What was said of a text, newest first."""
        query = urlencode({"q": text, "limit": limit})
        passages: list[JsonObject] = (await self._json("GET", f"/api/search?{query}"))["passages"]
        return passages

    async def list_recent_runs(self, *, limit: int = 100, after: str = "") -> JsonObject:
        """The runs of all threads, newest first; `next` is what to give as `after` for those behind."""
        query = urlencode({name: value for name, value in {"limit": limit, "after": after}.items() if value})
        return await self._json("GET", f"/api/runs?{query}")

    async def list_sinks(self) -> list[JsonObject]:
        """What waits for receivers outside."""
        sinks: list[JsonObject] = (await self._json("GET", "/api/sinks"))["sinks"]
        return sinks

    async def get_queue_status(self) -> JsonObject:
        """How much waits."""
        return await self._json("GET", "/api/queue")

    async def list_workers(self) -> list[JsonObject]:
        """The processes that run with the server's store."""
        processes: list[JsonObject] = (await self._json("GET", "/api/workers"))["processes"]
        return processes

    async def get_daily_usage(self, days: int = 30) -> list[JsonObject]:
        """What was used on each of the last days."""
        usage: list[JsonObject] = (await self._json("GET", f"/api/usage?days={days:d}"))["days"]
        return usage

    async def list_dead_letters(self, *, after: str = "", limit: int = 100) -> list[JsonObject]:
        """Messages that no run could answer, oldest first."""
        query = urlencode({"limit": limit, **({"after": after} if after else {})})
        letters: list[JsonObject] = (await self._json("GET", f"/api/dead?{query}"))["dead"]
        return letters

    async def redrive(self, dead_id: str, *, once: str | None = None) -> JsonObject:
        """Take a dead letter in again. Raises `NotFound`."""
        return await self._json("POST", "/api/dead" + path_of(dead_id, "redrive"), None, once)

    async def discard(self, dead_id: str, *, once: str | None = None) -> None:
        """Drop a dead letter. Raises `NotFound`."""
        await self._link.call("DELETE", "/api/dead" + path_of(dead_id), once=once)

    async def list_assistants(self) -> JsonObject:
        """Who may answer, and who does where no other is chosen."""
        return await self._json("GET", "/api/assistants")

    async def create_assistant(self, fields: Mapping[str, Any]) -> JsonObject:
        """An assistant of `model`, `name`, `instructions`, `tools`, … `OutcomeUnknown`:
        the answer was lost.
        """
        assistant: JsonObject = await self._link.call("POST", "/api/assistants", dict(fields), repeats=False)
        return assistant

    async def change_assistant(
        self, assistant_id: str, fields: Mapping[str, Any], *, once: str | None = None
    ) -> JsonObject:
        """Change an assistant. Raises `NotFound`."""
        return await self._json("PATCH", "/api/assistants" + path_of(assistant_id), dict(fields), once)

    async def use_assistant(self, assistant_id: str, *, once: str | None = None) -> JsonObject:
        """Let it answer where no other is chosen."""
        return await self._json("POST", "/api/assistants" + path_of(assistant_id, "use"), None, once)

    async def delete_assistant(self, assistant_id: str, *, once: str | None = None) -> None:
        """Delete an assistant. Raises `NotFound`."""
        await self._link.call("DELETE", "/api/assistants" + path_of(assistant_id), once=once)

    def _path(self, channel: str, *rest: str) -> str:
        return "/api/channels" + path_of(channel, *rest)

    async def _json(self, method: str, path: str, body: object = None, once: str | None = None) -> JsonObject:
        answer: JsonObject = await self._link.call(method, path, body, once=once)
        return answer

    async def _earlier_answer(self, channel: str, message_id: str) -> str | None:
        """The answer of a message that was settled before it was sent again: no event tells it."""
        record = await self.get_message(channel, message_id)
        if record["status"] in ("waiting", "delayed", "running"):
            return None
        text = answer_among((await self.list_messages(channel))["items"], message_id)
        if text is None:
            raise NotFound(f"message {message_id!r} was {record['status']}, and has no answer")
        return text


def answer_among(items: Sequence[Mapping[str, Any]], message_id: str) -> str | None:
    """What these entries of a transcript answer to a message; None where they hold no answer to it."""
    turn = next((item["turn"] for item in items if item.get("message_id") == message_id), None)
    texts = [item.get("text", "") for item in items if item["turn"] == turn and item["kind"] == "assistant"]
    return None if turn is None or not texts else str(texts[-1])


def position_of(frame: Mapping[str, Any]) -> str:
    """What to give as `after` to go on behind a frame."""
    return f"{frame['epoch']}:{frame['offset']}"


def _answer_in(frame: JsonObject, message_id: str) -> str | None:
    """The answer, if this frame ends the turn of the message. Raises what the turn ended with."""
    if message_id not in frame.get("message_ids", (frame.get("message_id"),)):
        return None
    if frame["status"] == "withdrawn":
        raise NotFound("the message was withdrawn and will not be answered")
    if frame["type"] == "error":
        raise error_of({"code": frame.get("code"), "message": frame.get("error_details") or frame["message"]})
    return str(frame["message"]) if frame["type"] == "response" and frame["status"] == "completed" else None
