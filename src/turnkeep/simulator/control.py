"""The routes under ``/_sim/``: how other processes steer this simulator and read what it saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnkeep.simulator.conversations import Conversations
from turnkeep.simulator.delivery import JsonReply
from turnkeep.simulator.exchanges import Exchange
from turnkeep.simulator.faults import FAULT_KINDS, Fault
from turnkeep.simulator.options import StreamPace
from turnkeep.simulator.persona import AnswerScript
from turnkeep.simulator.problems import Problem, bad, bad_json
from turnkeep.simulator.quirks import QUIRKS
from turnkeep.simulator.responses_api import Responses
from turnkeep.simulator.world import World


class Control:
    """Handlers of one simulator."""

    def __init__(self, world: World, responses: Responses, conversations: Conversations) -> None:
        self._world = world
        self._responses = responses
        self._conversations = conversations

    def routes(self) -> list[Route]:
        return [
            Route("/", self.about),
            Route("/ledger", self.ledger),
            Route("/open", self.open),
            Route("/reset", self.reset, methods=["POST"]),
            Route("/script", self.script, methods=["POST"]),
            Route("/faults", self.faults, methods=["GET", "POST", "DELETE"]),
            Route("/pace", self.pace, methods=["POST"]),
            Route("/options", self.options, methods=["POST"]),
            Route("/refuse", self.refuse, methods=["POST"]),
        ]

    async def about(self, _: Request) -> Response:
        """What this is, and what it can be told."""
        about = {"simulator": "turnkeep", "seed": self._world.seed, "pace": asdict(self._world.pace)}
        return JsonReply(
            about | {"faults": dict(FAULT_KINDS), "quirks": sorted(QUIRKS), "exchanges": len(self._world.ledger)}
        )

    async def ledger(self, request: Request) -> Response:
        """What was asked, with `thread`, `text`, `after` (n) and `limit`, and what the detectors
        say.
        """
        ledger = self._world.ledger
        exchanges = [exchange.to_json() for exchange in ledger if _matches(exchange, request.query_params)]
        # Its length is looked at first: `int` raises on thousands of digits.
        limit = request.query_params.get("limit", "")
        exchanges = exchanges[-int(limit) :] if limit.isdecimal() and 0 < len(limit) < 8 and int(limit) else exchanges
        return JsonReply(
            {
                "exchanges": exchanges,
                "open": ledger.open_count,
                "overlaps": [[a.n, b.n] for a, b in ledger.overlaps()],
                "twice_within_a_request": [{"n": e.n, "text": text} for e, text in ledger.twice_within_a_request()],
                "answered_twice": {text: [e.n for e in group] for text, group in ledger.answered_twice().items()},
            }
        )

    async def open(self, _: Request) -> Response:
        """How many requests are open, and which."""
        ledger = self._world.ledger
        names = ("n", "run", "thread", "sent")
        rows = [{name: getattr(exchange, name) for name in names} for exchange in ledger.open()]
        return JsonReply({"open": ledger.open_count, "exchanges": rows})

    async def reset(self, _: Request) -> Response:
        """Forget ledger, faults, script and everything stored; what is running goes on."""
        self._world.ledger.clear()
        self._world.faults.clear()
        self._world.script = AnswerScript()
        self._responses.clear()
        self._conversations.clear()
        return JsonReply({"reset": True})

    async def script(self, request: Request) -> Response:
        """Replies in order, and what is answered after them: ``{"replies":
        ["[[say:hi]]"], "default": null}``.
        """
        body = await read_object(request)
        replies, default = body.get("replies", []), body.get("default")
        if not isinstance(replies, list) or not all(isinstance(reply, str) for reply in replies):
            raise bad("'replies' has to be an array of strings.", "replies")
        if default is not None and not isinstance(default, str):
            raise bad("'default' has to be a string.", "default")
        self._world.script = AnswerScript(replies, default)
        return JsonReply({"replies": len(replies), "default": default})

    async def faults(self, request: Request) -> Response:
        """Read, add (one or an array) or clear faults."""
        faults = self._world.faults
        if request.method == "DELETE":
            faults.clear()
        if request.method == "POST":
            body = await read_json(request)
            for document in body if isinstance(body, list) else [body]:
                faults.append(_fault(document))
        return JsonReply({"faults": [fault.to_json() for fault in faults]})

    async def pace(self, request: Request) -> Response:
        """Seconds: ``{"first": 0.1, "token": 0.02}``. Counts for new requests."""
        body = await read_object(request)
        values = {name: body.get(name, getattr(self._world.pace, name)) for name in ("first", "token")}
        if not all(isinstance(value, (int, float)) and value >= 0 for value in values.values()):
            raise bad("'first' and 'token' have to be numbers of seconds.", "pace")
        self._world.pace = StreamPace(**values)
        return JsonReply(values)

    async def options(self, request: Request) -> Response:
        """Change some ways of the simulator; see `Options`."""
        body = await read_object(request)
        try:
            self._world.options = self._world.options.but(body)
        except ValueError as error:
            raise bad(str(error), "options") from None
        return JsonReply(body)

    async def refuse(self, request: Request) -> Response:
        """Refuse connections for ``{"seconds": 1}``, beginning now."""
        body = await read_object(request)
        seconds = body.get("seconds", 1)
        if self._world.door is None or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 3600:
            raise bad(
                "'seconds' has to be a number from 0 to 3600, and the simulator on a socket of its own.", "seconds"
            )
        _ = self._world.spawn(self._world.door.refuse(float(seconds)))
        # This connection has to go too: a client that keeps it would not see that the door is shut.
        return JsonReply({"refusing": seconds}, headers={"connection": "close"})


async def read_json(request: Request) -> Any:
    """The body of a request; refuses what is no JSON. An empty body is an empty object."""
    raw = await request.body()
    try:
        return orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        raise bad_json() from None


async def read_object(request: Request) -> dict[str, Any]:
    body = await read_json(request)
    if not isinstance(body, dict):
        raise Problem(400, "The body has to be a JSON object.")
    return body


def _fault(document: Any) -> Fault:
    if not isinstance(document, dict):
        raise bad("a fault has to be an object.", "fault")
    try:
        return Fault.from_json(document)
    except (ValueError, TypeError) as error:
        raise bad(str(error), "fault") from None


def _matches(exchange: Exchange, query: Mapping[str, str]) -> bool:
    after = query.get("after", "")
    if after.isdecimal() and len(after) < 12 and exchange.n <= int(after):
        return False
    if "thread" in query and exchange.thread != query["thread"]:
        return False
    return "text" not in query or query["text"] in exchange.texts
