"""How model servers stream and fail, imitated: a whole answer to a request, by what its last user message asks for.

`[think]` wants a thought, `[tools N]` so many calls, `[cut]`, `[rate]`, `[key]` and `[credit]` their troubles. What a
server refuses is in `imitations.py`. A trouble that a server cannot have is not in its errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.contract.canned import Visit
from tests.imitations import calls_of, messages_of, refusal

THOUGHT = "hm, let me think"
SIGNED = {"google": {"thought_signature": "c2ln"}}
WINDOW = 9_000
"""Characters of a request that a server takes."""


@dataclass(frozen=True)
class Trouble:
    """One error as a server tells it."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


def openai(status: int, message: str, code: str | None = None, **headers: str) -> Trouble:
    return Trouble(status, {"error": {"message": message, "type": "invalid_request_error", "code": code}}, headers)


def plain(status: int, message: str, **headers: str) -> Trouble:
    return Trouble(status, {"object": "error", "message": message, "type": "BadRequestError", "code": status}, headers)


def google(code: int, message: str, status: str, *details: Any) -> Trouble:
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return Trouble(code, [{"error": error}])


@dataclass(frozen=True)
class Dialect:
    """How one server streams. `thought` is the field of its thoughts, `ids` names its calls."""

    long: Trouble
    key: Trouble | None = None
    credit: Trouble | None = None
    rate: Trouble | None = None
    thought: str | None = None
    ids: Callable[[int], str] = "call_{:024x}".format
    whole_calls: bool = False
    one_index: bool = False
    signs: bool = False
    said_as_parts: bool = False
    heartbeat: bytes = b""
    usage: bool = True
    done: bool = True
    refuses_with: int = 400
    wait: float = 1.0
    """Seconds that its rate limit names."""


UNAUTHORIZED = Trouble(401, {"error": "Unauthorized"})
NO_CREDIT = "You exceeded your current quota, please check your plan and billing details."
DIALECTS: dict[str, Dialect] = {
    "openai": Dialect(
        openai(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        openai(401, "Incorrect API key provided: sk-case.", "invalid_api_key"),
        openai(429, NO_CREDIT, "insufficient_quota"),
        openai(429, "Rate limit reached for gpt-4o. Please try again in 1s.", "rate_limit_exceeded"),
    ),
    "azure": Dialect(
        openai(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        Trouble(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}),
        openai(429, NO_CREDIT, "insufficient_quota"),
        Trouble(429, {"error": {"code": "429", "message": "Please retry after 1 second."}}, {"retry-after": "1"}),
    ),
    "gemini": Dialect(
        google(400, "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
               "INVALID_ARGUMENT"),
        google(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT",
               {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}),
        google(402, "Your project has exceeded its monthly spending cap.", "FAILED_PRECONDITION"),
        google(429, "Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED",
               {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}),
        whole_calls=True, signs=True, done=False, ids="function-call-{:018d}".format,
    ),
    "mistral": Dialect(
        plain(400, "Prompt contains 40012 tokens and 0 draft tokens, too large for model with 32768 maximum context "
              "length"),
        Trouble(401, {"message": "Unauthorized", "request_id": "1"}),
        plain(402, "Insufficient balance"),
        Trouble(429, {"message": "Requests rate limit exceeded"}, {"retry-after": "1"}),
        whole_calls=True, ids="abcdefg{:02d}".format, refuses_with=422,
    ),
    "deepseek": Dialect(
        openai(400, "This model's maximum context length is 131072 tokens.", "invalid_request_error"),
        openai(401, "Authentication Fails, Your api key is invalid", "invalid_request_error"),
        openai(402, "Insufficient Balance", "invalid_request_error"),
        openai(429, "Rate limit reached. Please try again in 1s", "rate_limit_error"),
        thought="reasoning_content", heartbeat=b": keep-alive\n\n",
    ),
    "moonshot": Dialect(
        openai(400, "Invalid request: Your request exceeded model token limit: 262144 (requested: 291351)"),
        openai(401, "Invalid Authentication", "invalid_authentication_error"),
        openai(429, "Your account is suspended, please check your plan and billing details",
               "exceeded_current_quota_error"),
        openai(429, "Your account reached max RPM: 3, please try again after 1 seconds", "rate_limit_reached_error"),
        thought="reasoning_content", ids="look_up:{}".format,
    ),
    "groq": Dialect(
        openai(400, "Please reduce the length of the messages or completion. Current length is 9104 while limit is "
               "8192", "context_length_exceeded"),
        openai(401, "Invalid API Key", "invalid_api_key"),
        openai(402, "You have exceeded your monthly included credits"),
        openai(429, "Rate limit reached for model. Please try again in 1.2s.", "rate_limit_exceeded"),
        thought="reasoning", whole_calls=True, ids="fc_{}".format, wait=1.2,
    ),
    "xai": Dialect(
        Trouble(400, {"code": "invalid", "error": "This model's maximum prompt length is 131072 but the request "
                      "contains 537812 tokens."}),
        Trouble(400, {"code": "invalid", "error": "Incorrect API key provided: xa***ey. You can obtain an API key "
                      "from https://console.x.ai."}),
        Trouble(429, {"code": "quota", "error": "Your team x has either used all available credits or reached its "
                      "monthly spending limit."}),
        Trouble(429, {"code": "limit", "error": "Too many requests"}, {"retry-after": "1"}),
        thought="reasoning_content", whole_calls=True,
    ),
    "openrouter": Dialect(
        openai(400, "This endpoint's maximum context length is 8192 tokens."),
        Trouble(401, {"error": {"message": "No auth credentials found", "code": 401}}),
        Trouble(402, {"error": {"message": "Insufficient credits. Add more using https://openrouter.ai", "code": 402}}),
        Trouble(429, {"error": {"message": "Provider returned error", "code": 429}}, {"retry-after": "1"}),
        thought="reasoning_details", heartbeat=b": OPENROUTER PROCESSING\n\n", refuses_with=404,
    ),
    "together": Dialect(
        openai(422, "The input (4000 tokens) is longer than the model's context length (2048 tokens)."),
        openai(401, "Invalid API key provided.", "invalid_api_key"),
        openai(402, "Credit limit exceeded, please navigate to https://api.together.xyz/settings/billing"),
        openai(429, "You have reached the rate limit", None, **{"retry-after": "1"}),
        thought="reasoning",
    ),
    "fireworks": Dialect(
        openai(400, "The prompt is too long: 9000, model maximum context length: 8191"),
        Trouble(401, {"error": {"message": "The API key you provided is invalid.", "code": "UNAUTHORIZED"}}),
        openai(412, "Account x is suspended, possibly due to reaching the monthly spending limit or failure to pay "
               "past invoices."),
        openai(429, "Request didn't generate first token before the given deadline", None, **{"retry-after": "1"}),
        thought="reasoning_content",
    ),
    "databricks": Dialect(
        Trouble(400, {"error_code": "BAD_REQUEST", "message": "Input is too long for requested model."}),
        Trouble(403, {"error_code": "403", "message": "Invalid access token."}),
        rate=Trouble(429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Exceeded rate limit"},
                     {"retry-after": "1"}),
        said_as_parts=True, ids="toolu_{:020d}".format,
    ),
    "bedrock": Dialect(
        Trouble(400, {"message": "Input is too long for requested model."}),
        Trouble(403, {"message": "The security token included in the request is invalid."}),
        rate=Trouble(429, {"message": "Too many requests, please wait before trying again."}, {"retry-after": "1"}),
        ids="tooluse_{:020d}".format,
    ),
    "ollama": Dialect(
        openai(400, "prompt too long; exceeded max context length by 312 tokens"),
        Trouble(401, {"error": "unauthorized"}),
        thought="reasoning", whole_calls=True, one_index=True, ids="call_{:08d}".format,
    ),
    "vllm": Dialect(
        plain(400, "This model's maximum context length is 2048 tokens. However, you requested 4000 tokens."),
        UNAUTHORIZED, thought="reasoning_content", ids="chatcmpl-tool-{:032x}".format,
    ),
    "sglang": Dialect(
        plain(400, "The input (4000 tokens) is longer than the model's context length (2048 tokens)."),
        UNAUTHORIZED, thought="reasoning_content",
    ),
    "llamacpp": Dialect(
        openai(400, "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
               "exceed_context_size_error"),
        openai(401, "Invalid API Key", "authentication_error"),
        thought="reasoning_content", ids="{:032x}".format, refuses_with=500,
    ),
    "lmstudio": Dialect(
        Trouble(400, {"error": "Trying to keep the first 4096 tokens when context the overflows. However, the model is "
                      "loaded with context length of only 2048 tokens, which is not enough."}),
        thought="reasoning_content", ids="{:09d}".format,
    ),
    "litellm": Dialect(
        openai(400, "litellm.ContextWindowExceededError: prompt is too long: 213462 tokens > 200000 maximum", "400"),
        openai(401, "Authentication Error, Invalid proxy server token passed", "401"),
        openai(400, "Budget has been exceeded! Current cost: 10.2, Max budget: 10.0", "400"),
        openai(429, "No deployments available, try again in 1 seconds", "429", **{"retry-after": "1"}),
        thought="reasoning_content", ids="toolu_{:020d}".format,
    ),
}  # fmt: skip


def chunk(delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + orjson.dumps({"id": "c1", "model": "m", "choices": [choice], **more}) + b"\n\n"


@dataclass
class Server:
    """One imitated server; `troubled` are the messages that have had their trouble."""

    name: str
    troubled: set[str] = field(default_factory=set)
    calls: int = 0
    signed: set[str] = field(default_factory=set)

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.name]

    async def answer(self, visit: Visit) -> None:
        body = visit.body
        asked = _asked(body)
        if (trouble := self._trouble(body, asked)) is not None:
            visit.whole(orjson.dumps(trouble.body), trouble.status, "application/json", **trouble.headers)
        elif "[cut]" in asked and self._once(asked):
            visit.begin()
            visit.say(chunk({"role": "assistant", "content": "half of"}))
            visit.cut()
        else:
            visit.whole(b"".join(self._frames(body, asked)))

    def _trouble(self, body: Mapping[str, Any], asked: str) -> Trouble | None:
        if (said := refusal(self.name, body) or self._tampered(body)) is not None:
            return openai(self.dialect.refuses_with, said)
        if len(orjson.dumps(messages_of(body))) > WINDOW:
            return self.dialect.long
        if "[rate]" in asked and self._once(asked):
            return self.dialect.rate
        named = re.search(r"\[(key|credit)\]", asked)
        return getattr(self.dialect, named[1]) if named else None

    def _once(self, asked: str) -> bool:
        """Whether this message has had no trouble yet; now it has."""
        first = asked not in self.troubled
        self.troubled.add(asked)
        return first

    def _tampered(self, body: Mapping[str, Any]) -> str | None:
        """What was attached comes back word for word, or as the blank that stands for another model's thought."""
        fields = [m[name] for m in messages_of(body) for name in (self.dialect.thought,) if name and name in m]
        if any(value not in (self._thought, " ") for value in fields):
            return "this thought was never thought here"
        own = [call.get("extra_content") for call in calls_of(body) if call["id"] in self.signed]
        return None if all(attached == SIGNED for attached in own) else "this call was signed, where is its signature?"

    @property
    def _thought(self) -> Any:
        details = [{"type": "reasoning.text", "index": 0, "text": THOUGHT, "signature": "c2ln"}]
        return details if self.dialect.thought == "reasoning_details" else THOUGHT

    def _frames(self, body: Mapping[str, Any], asked: str) -> list[bytes]:
        dialect = self.dialect
        frames = [dialect.heartbeat, chunk({"role": "assistant", "content": ""})]
        wanted = re.search(r"\[tools (\d)\]", asked)
        if ("[think]" in asked or wanted) and dialect.thought:
            frames += self._thinking()
        if wanted and messages_of(body)[-1]["role"] != "tool":
            return [*frames, *self._calling(int(wanted[1])), *self._end("tool_calls")]
        outputs = [m["content"] for m in messages_of(body) if m["role"] == "tool"][-int(wanted[1]) :] if wanted else []
        return [*frames, *(self._said(text) for text in ("fine", *(f" {o}" for o in outputs))), *self._end("stop")]

    def _thinking(self) -> list[bytes]:
        field_name = self.dialect.thought or ""
        if field_name == "reasoning_details":
            first = {"type": "reasoning.text", "index": 0, "text": THOUGHT[:3], "signature": None}
            last = {**first, "text": THOUGHT[3:], "signature": "c2ln"}
            return [chunk({"reasoning": e["text"], field_name: [e]}) for e in (first, last)]
        return [chunk({field_name: piece}) for piece in (THOUGHT[:5], THOUGHT[5:])]

    def _said(self, text: str) -> bytes:
        return chunk({"content": [{"type": "text", "text": text}] if self.dialect.said_as_parts else text})

    def _calling(self, count: int) -> list[bytes]:
        frames: list[bytes] = []
        for n in range(count):
            self.calls += 1
            place = 0 if self.dialect.one_index else n
            arguments = f'{{"city":"{"AB"[n]}"}}'
            call: dict[str, Any] = {"index": place, "id": self.dialect.ids(self.calls), "type": "function"}
            if self.dialect.signs and n == 0:
                call["extra_content"] = SIGNED
                self.signed.add(call["id"])
            pieces = [arguments] if self.dialect.whole_calls else [arguments[:4], arguments[4:]]
            frames.append(chunk({"tool_calls": [{**call, "function": {"name": "look_up", "arguments": pieces[0]}}]}))
            frames += [chunk({"tool_calls": [{"index": place, "function": {"arguments": p}}]}) for p in pieces[1:]]
        return frames

    def _end(self, reason: str) -> list[bytes]:
        frames = [chunk({}, reason)]
        if self.dialect.usage:
            usage = {"prompt_tokens": 5, "completion_tokens": 2}
            frames.append(b"data: " + orjson.dumps({"id": "c1", "choices": [], "usage": usage}) + b"\n\n")
        return [*frames, b"data: [DONE]\n\n"] if self.dialect.done else frames


def _asked(body: Mapping[str, Any]) -> str:
    """The words of the user's last message."""
    content = next(m["content"] for m in reversed(messages_of(body)) if m["role"] == "user")
    if isinstance(content, str):
        return content.rpartition("\n")[2]
    return next((part["text"] for part in reversed(content) if part["type"] == "text"), "")
