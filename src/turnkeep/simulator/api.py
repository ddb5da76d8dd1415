"""The simulator: an OpenAI-compatible server as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from turnkeep.clock import Clock
from turnkeep.simulator import chat_api, message_api, model_list
from turnkeep.simulator.background_runs import BackgroundRuns
from turnkeep.simulator.control import Control
from turnkeep.simulator.conversations import Conversations, page
from turnkeep.simulator.delivery import JsonReply, RunDelivery
from turnkeep.simulator.exchanges import Exchange, Surface
from turnkeep.simulator.message_checks import message_body
from turnkeep.simulator.options import Options, StreamPace
from turnkeep.simulator.persona import AnswerScript
from turnkeep.simulator.problems import MessageProblem, Problem, bad_json, model_not_found, no_key, wrong_key
from turnkeep.simulator.quirks import QUIRKS, Quirk
from turnkeep.simulator.responses_api import Responses
from turnkeep.simulator.world import World

MakeAnswer = Callable[[object, Exchange, Quirk], ASGIApp]


class Simulator(World):
    """An OpenAI-compatible server whose model is made of rules.

    `app` is the ASGI application (it needs its lifespan); `serve` puts it on a socket.
    `faults`, `script`, `ledger`, `pace` and `options` may be used and changed while it
    runs, from here or, with `control`, over ``/_sim/``. The same seed and the same requests
    in the same order give the same bytes.
    """

    def __init__(
        self,
        seed: int = 0,
        script: AnswerScript | None = None,
        *,
        pace: StreamPace | None = None,
        options: Options | None = None,
        clock: Clock | None = None,
        control: bool = True,
    ) -> None:
        super().__init__(seed=seed, script=script, pace=pace, options=options, clock=clock)
        self.conversations = Conversations(self.ids, self.clock)
        self.responses = Responses(self, self.conversations)
        self.background = BackgroundRuns(self, self.responses)
        self.app: ASGIApp = _application(self, control=control)


def _application(simulator: Simulator, *, control: bool) -> Starlette:
    surface = _Routes(simulator)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            simulator.group = group
            yield
            simulator.group = None
            simulator.stop_tasks()
        simulator.ledger.close()

    routes: list[BaseRoute] = [
        Mount("/v1", routes=surface.routes()),
        # By path, so that one simulator plays several servers at once, each known by its base URL.
        Mount("/quirk/{quirk}/v1", routes=surface.routes()),
    ]
    if control:
        routes.append(Mount("/_sim", routes=Control(simulator, simulator.responses, simulator.conversations).routes()))
    handlers: dict[Any, Any] = {Problem: _refuse, HTTPException: _no_route, Exception: _report_defect}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class _Routes:
    """The routes of the platform, one method each."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def routes(self) -> list[Route]:
        post, delete = ["POST"], ["DELETE"]
        response, conversation = "/responses/{id}", "/conversations/{id}"
        return [
            Route("/models", self.models),
            Route("/models/{id:path}", self.model),
            Route("/chat/completions", self.chat, methods=post),
            Route("/messages", self.create_message, methods=post),
            Route("/messages/count_tokens", self.count_message, methods=post),
            Route("/responses", self.create_response, methods=post),
            Route("/responses/input_tokens", self.count_tokens, methods=post),
            Route("/responses/compact", self.compact, methods=post),
            Route(response, self.get_response),
            Route(response, self.delete_response, methods=delete),
            Route(f"{response}/cancel", self.cancel_response, methods=post),
            Route(f"{response}/input_items", self.input_items),
            Route("/conversations", self.create_conversation, methods=post),
            Route(conversation, self.get_conversation),
            Route(conversation, self.update_conversation, methods=post),
            Route(conversation, self.delete_conversation, methods=delete),
            Route(f"{conversation}/items", self.list_items),
            Route(f"{conversation}/items", self.add_items, methods=post),
            Route(f"{conversation}/items/{{item}}", self.get_item),
            Route(f"{conversation}/items/{{item}}", self.delete_item, methods=delete),
        ]

    async def models(self, request: Request) -> ASGIApp:
        self._admit(request)
        # Both platforms have a list at this address; their requests differ in nothing but this
        # header.
        if "anthropic-version" in request.headers:
            return self._reply(_message_models())
        entries = [_model(model) for model in model_list.KNOWN_MODELS.values()]
        return self._reply({"object": "list", "data": entries})

    async def model(self, request: Request) -> ASGIApp:
        self._admit(request)
        entry = model_list.KNOWN_MODELS.get(request.path_params["id"])
        if entry is None:
            raise model_not_found(request.path_params["id"])
        return self._reply(_model(entry))

    async def chat(self, request: Request) -> ASGIApp:
        def answer(body: object, exchange: Exchange, quirk: Quirk) -> ASGIApp:
            return chat_api.answer(self._simulator, body, exchange, quirk=quirk)

        return await self._answer(request, "chat", answer)

    async def create_message(self, request: Request) -> ASGIApp:
        version = request.headers.get("anthropic-version", "")

        def answer(body: object, exchange: Exchange, quirk: Quirk) -> ASGIApp:
            return message_api.answer(self._simulator, body, exchange, quirk=quirk, version=version)

        return await self._answer(request, "messages", answer)

    async def count_message(self, request: Request) -> ASGIApp:
        # Counting takes the body of an answer but for `max_tokens`, without which no body is valid.
        body = message_body({**await self._object(request), "max_tokens": 1}, "")
        return self._reply({"input_tokens": message_api.message_prompt(body).tokens()})

    async def create_response(self, request: Request) -> ASGIApp:
        return await self._answer(request, "responses", self._respond)

    def _respond(self, body: object, exchange: Exchange, quirk: Quirk) -> ASGIApp:
        simulator, responses = self._simulator, self._simulator.responses
        create = responses.understand(body, quirk)
        # Heard before anything is refused: what was asked counts, whatever comes of it.
        simulator.ledger.hear(exchange, create.prompt)
        fault = simulator.faults.strike(create.prompt)
        exchange.fault = fault.kind if fault is not None else None
        responses.check(create, fault)
        entry = responses.begin(create, exchange)
        if create.body.get("background"):
            simulator.background.start(entry, fault)
            streaming = entry.streamable
            return simulator.background.follow(entry, fault) if streaming else self._reply(entry.response)
        return RunDelivery(
            simulator,
            entry.run,
            exchange,
            fault=fault,
            streaming=create.body.get("stream") is True,
            abandon=lambda: responses.abandon(entry),
            quirk=quirk,
        )

    async def _answer(self, request: Request, surface: Surface, answer: MakeAnswer) -> ASGIApp:
        """Take a request into the ledger, and answer it or say there why not."""
        simulator = self._simulator
        quirk = self._quirk(request)
        if surface == "responses" and not quirk.responses:
            # The very reply of a server that has no such route, not a refusal of ours.
            raise HTTPException(404)
        exchange = simulator.ledger.arrive(surface, simulator.ids.new("req_", 32), request.headers)
        try:
            self._admit(request)
            simulator.count_request()
            body = await self._body(request)
            simulator.ledger.label(exchange, body)
            exchange.body = body if simulator.options.keep_bodies else None
            return answer(body, exchange, quirk)
        except Problem as problem:
            refusal, headers = problem, simulator.headers
            if surface == "messages":
                refusal, headers = MessageProblem.of(problem, exchange.model), simulator.message_headers
            simulator.ledger.finish(exchange, "refused", refusal.status, code=problem.code)
            refusal.headers = {**headers(exchange.request_id), **refusal.headers}
            raise refusal from None
        finally:
            # A defect of ours may leave no exchange open: whoever waits for `quiet` would wait for
            # ever.
            if exchange.outcome == "open" and exchange.response_id is None:
                simulator.ledger.finish(exchange, "failed", 500)

    async def get_response(self, request: Request) -> ASGIApp:
        self._admit(request)
        query = request.query_params
        if query.get("stream") == "true":
            return self._simulator.background.resume(request.path_params["id"], query.get("starting_after"))
        return self._reply(self._simulator.responses.get(request.path_params["id"]).response)

    async def delete_response(self, request: Request) -> ASGIApp:
        self._admit(request)
        return self._reply(self._simulator.responses.delete(request.path_params["id"]))

    async def cancel_response(self, request: Request) -> ASGIApp:
        self._admit(request)
        return self._reply(self._simulator.background.cancel(request.path_params["id"]))

    async def input_items(self, request: Request) -> ASGIApp:
        self._admit(request)
        items = self._simulator.responses.get(request.path_params["id"]).input_items
        return self._reply(page(items, request.query_params))

    async def count_tokens(self, request: Request) -> ASGIApp:
        return self._reply(self._simulator.responses.count(await self._object(request)))

    async def compact(self, request: Request) -> ASGIApp:
        return self._reply(self._simulator.responses.compact(await self._object(request)))

    async def create_conversation(self, request: Request) -> ASGIApp:
        body = await self._object(request)
        return self._reply(self._simulator.conversations.create(body).to_json())

    async def get_conversation(self, request: Request) -> ASGIApp:
        self._admit(request)
        return self._reply(self._simulator.conversations.get(request.path_params["id"]).to_json())

    async def update_conversation(self, request: Request) -> ASGIApp:
        body = await self._object(request)
        return self._reply(self._simulator.conversations.update(request.path_params["id"], body).to_json())

    async def delete_conversation(self, request: Request) -> ASGIApp:
        self._admit(request)
        return self._reply(self._simulator.conversations.delete(request.path_params["id"]))

    async def list_items(self, request: Request) -> ASGIApp:
        self._admit(request)
        items = self._simulator.conversations.list_items(request.path_params["id"])
        return self._reply(page(items, request.query_params))

    async def add_items(self, request: Request) -> ASGIApp:
        body = await self._object(request)
        items = self._simulator.conversations.add(request.path_params["id"], body)
        return self._reply(page(items, {"order": "asc"}))

    async def get_item(self, request: Request) -> ASGIApp:
        self._admit(request)
        return self._reply(self._simulator.conversations.item(request.path_params["id"], request.path_params["item"]))

    async def delete_item(self, request: Request) -> ASGIApp:
        self._admit(request)
        path = request.path_params
        return self._reply(self._simulator.conversations.remove(path["id"], path["item"]).to_json())

    def _reply(self, body: Any) -> ASGIApp:
        return JsonReply(body, headers=self._simulator.headers(self._simulator.ids.new("req_", 32)))

    def _admit(self, request: Request) -> None:
        keys = self._simulator.options.api_keys
        if keys is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Where Anthropic's clients have their key.
        if own := request.headers.get("x-api-key"):
            scheme, key = "bearer", own
        if scheme.lower() != "bearer" or not key:
            raise no_key()
        if key not in keys:
            raise wrong_key()

    def _quirk(self, request: Request) -> Quirk:
        name = request.path_params.get("quirk", self._simulator.options.quirk)
        if name not in QUIRKS:
            raise Problem(404, f"There is no quirk '{name}'. Known: {', '.join(sorted(QUIRKS))}.")
        return QUIRKS[name]

    async def _object(self, request: Request) -> dict[str, Any]:
        self._admit(request)
        body = await self._body(request)
        if not isinstance(body, dict):
            raise Problem(400, "The body has to be a JSON object.")
        return body

    async def _body(self, request: Request) -> Any:
        raw = bytearray()
        limit = self._simulator.options.max_body
        async for chunk in request.stream():
            raw += chunk
            # Counted while it comes in: a body that is too large is never held whole.
            if len(raw) > limit:
                raise Problem(413, f"The body is larger than {limit} bytes.", code="request_too_large")
        try:
            return orjson.loads(raw) if raw else {}
        except orjson.JSONDecodeError:
            raise bad_json() from None


def _model(model: model_list.KnownModel) -> Mapping[str, Any]:
    fields = {"id": model.name, "object": "model", "created": model.created_at, "owned_by": "simulator"}
    return {**fields, "shutdown_date": model.shutdown}


def _message_models() -> Mapping[str, Any]:
    models = [{"type": "model", "id": name, "display_name": name} for name in model_list.MESSAGE_MODELS]
    entries = [{**model, "created_at": "2026-01-01T00:00:00Z"} for model in models]
    return {"data": entries, "has_more": False, "first_id": entries[0]["id"], "last_id": entries[-1]["id"]}


async def _refuse(_: Request, problem: Problem) -> JsonReply:
    return JsonReply(problem.body(), problem.status, problem.headers)


async def _no_route(request: Request, error: Exception) -> JsonReply:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return JsonReply(Problem(status, f"Invalid URL ({request.method} {request.url.path})").body(), status)


async def _report_defect(_: Request, __: Exception) -> JsonReply:
    problem = Problem(500, "The simulator has a defect: it failed on this request.", type="server_error")
    return JsonReply(problem.body(), 500)
