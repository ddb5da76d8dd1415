"""One request of OpenAI's kind as a turn of a thread: found or made, its messages taken in, and what
is to be followed. Chat Completions and Responses ask by it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import field, replace
from typing import Any

from starlette.responses import Response

from turnkeep.auth import acts
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai import resent_history as history
from turnkeep.doors.http.openai.conversation_key import AnswerName
from turnkeep.doors.http.openai.openai_errors import openai_error
from turnkeep.doors.http.openai.openai_input import allow_wishes, id_from, message_of, plain_text, read_past_content
from turnkeep.doors.http.openai.sdk_retries import find_written, is_retry
from turnkeep.doors.http.openai.turn_reader import (
    Beginning,
    LogCursor,
    Replacement,
    TextGrowth,
    ThoughtGrowth,
    TurnPart,
    TurnReader,
    outline_of,
)
from turnkeep.doors.http.openai.turn_segments import TurnSegment, past_segment
from turnkeep.doors.http.sent_events import response_resources
from turnkeep.errors import Conflict, InvalidMessage, NotFound, Rejection, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, AssistantItem, CallItem, Item, Message, OutputItem, UserItem, turns_of
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.store.clearing import forget_at_work
from turnkeep.store.operations import RESULT_LIFETIME
from turnkeep.store.values import HeldCall, History, ThreadRecord, TranscriptEntry

DIVERGENCE = (
    "the history that was sent is not how this conversation went on here (message {number} of it): an earlier message "
    "was changed, left out or answered otherwise. Send what was said, or begin a conversation of its own under "
    "another key; TURNKEEP_OPENAI_HISTORY=fresh does that by itself"
)
MOST_BRANCHES = 16
MOST_REPEATS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """What was asked, in our words. `messages` are of Chat Completions' kind: system, user,
    assistant and tool. `compares`: all of the conversation is in them, else only what is new.
    """

    messages: Sequence[Mapping[str, Any]]
    wishes: Mapping[str, Any]
    compares: bool
    message_id: str | None = None
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A message whose turn is to be followed."""

    address: Address
    name: AnswerName


@dataclass(slots=True)
class TurnAnswer:
    """The question was taken in; `parts` tells what becomes of it."""

    question: Question
    reader: TurnReader
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    past: TurnSegment | None = None
    """What it was, where its turn has gone on since."""
    text_so_far: str = ""
    thoughts_so_far: str = ""
    """What was said and thought by the part that was read last."""

    async def parts(self) -> AsyncIterator[TurnPart]:
        async for part in self.past.parts() if self.past else self.reader.parts(self.question.name.message_id):
            match part:
                case TextGrowth(text):
                    self.text_so_far += text
                case ThoughtGrowth(text):
                    self.thoughts_so_far += text
                case Replacement(text):
                    self.text_so_far = text
                case Beginning():
                    self.text_so_far = self.thoughts_so_far = ""
            yield part

    async def wait_for(self, response: Awaitable[Response]) -> Response:
        """What is told when all of it is there; it is closed then. Of a store that fails meanwhile too: what it
        raises would ask for the request once more, whose question was taken in.
        """
        try:
            try:
                return await response
            finally:
                await self.close()
        except StoreError as error:
            return openai_error(error, is_taken_in=True)

    async def close(self) -> None:
        await self.stack.aclose()


async def ask(call: HttpCall, address: Address | None, request: TurnRequest) -> TurnAnswer:
    """Take it in durably. Raises `Rejection`. `close` what is given back."""
    allow_wishes(call, request.wishes)
    async with response_resources() as stack:
        stack.enter_context(call.limits.streaming(call.holder))
        if outputs := outputs_of(request.messages):
            return await _give_outputs(call, address, outputs, request, stack)
        if address is None:
            return await _ask_alone(call, request, stack)
        return await _ask_in(call, address, request, stack)


async def ask_anew(call: HttpCall, request: TurnRequest) -> TurnAnswer:
    """The same in a new thread: what was said before is written into it first."""
    allow_wishes(call, request.wishes)
    past, question = _split(call, request)
    address = (await new_thread(call)).address
    try:
        return await ask(call, address, await _begin(call, address, past, question))
    except Rejection:
        # nobody was told of it; what its caller names is his repeat's, or his first request's
        if call.once is None:
            await _forget(call, address)
        raise


def question_id(call: HttpCall) -> str | None:
    """The id of the message that is to be answered, if its caller names the request: it is taken in once."""
    return None if call.once is None else id_from(call.once)


def comparing(request: TurnRequest) -> TurnRequest:
    return replace(request, compares=True)


# ---------------------------------------------------------------- in a conversation


async def _ask_in(call: HttpCall, address: Address, request: TurnRequest, stack: AsyncExitStack) -> TurnAnswer:
    if request.compares:
        for _ in range(MOST_BRANCHES):
            comparison = await _compare(call, address, request)
            if not isinstance(comparison, history.Divergence):
                break
            if call.application.settings.openai_history == "refuse":
                raise Conflict(DIVERGENCE.format(number=comparison.index + 1))
            address = await _branch(call, address, request, comparison.index)
        else:
            raise Conflict(DIVERGENCE.format(number=1))
    else:
        comparison = await _repetition(call, address, request) or history.Continuation(0)
    reader = await stack.enter_async_context(TurnReader(call, address))
    match comparison:
        case history.Repetition(request.message_id):
            name = await _send(call, address, _last_of(request), 0)
        case history.Continuation(index):
            index = await _take_others_answers(call, address, request, index)
            name = await _send(call, address, request, index)
        case history.Regeneration(message_id) if not request.is_retry:
            name = await _regenerate(call, address, message_id)
        case _:
            message_id = comparison.message_id
            record = await call.application.store.thread(address)
            name = AnswerName(record.thread_id if record else "", message_id)
    return await _answer_of(call, Question(address, name), reader, stack)


async def _answer_of(call: HttpCall, question: Question, reader: TurnReader, stack: AsyncExitStack) -> TurnAnswer:
    """What is read for it. A repeat is told what its first request was, also where the turn has gone on since."""
    past = None
    if call.once is not None or is_retry(call):
        name, store = question.name, call.application.store
        record, message = await store.thread(question.address), await store.message(question.address, name.message_id)
        if record is not None and message is not None:
            past = await past_segment(call, record, message, name.segment)
    return TurnAnswer(question, reader, stack, past)


async def _compare(call: HttpCall, address: Address, request: TurnRequest) -> history.Comparison:
    store = call.application.store
    resent = history.utterances_resent(request.messages)
    if not resent or resent[-1].role != "user":
        raise InvalidMessage("the last message must be a user's, or the outputs of calls that wait")
    if (repetition := await _named_repetition(call, address, request)) is not None:
        return repetition
    past = await store.history(address) if await store.thread(address) is not None else History((), None, True)
    transcript = history.utterances_stored(past.entries, await store.open_messages(address))
    comparison = history.compare(resent, transcript)
    # The oldest turns may be gone here, while the client still has them.
    starts = range(1, len(resent)) if not past.complete or past.summary else ()
    for start in starts:
        if not isinstance(comparison, history.Divergence):
            break
        comparison = history.compare(resent[start:], transcript)
        if isinstance(comparison, history.Continuation):
            comparison = history.Continuation(start + comparison.index)
    return comparison


async def _repetition(call: HttpCall, address: Address, request: TurnRequest) -> history.Repetition | None:
    users = [one for one in request.messages if one.get("role") == "user"]
    repetition = await _named_repetition(call, address, request)
    if repetition is not None or not request.is_retry or not users:
        return repetition
    last = message_of(call, address, content=users[-1].get("content"), wishes={})
    message_id = await find_written(call, address, last.content)
    return None if message_id is None else history.Repetition(message_id)


async def _named_repetition(call: HttpCall, address: Address, request: TurnRequest) -> history.Repetition | None:
    """That this request was taken in before, by the name that its caller gave it."""
    message_id = request.message_id
    if message_id is None or await call.application.store.message(address, message_id) is None:
        return None
    return history.Repetition(message_id)


def _last_of(request: TurnRequest) -> TurnRequest:
    """The last message of a request that was taken in before: it has its receipt, or is refused if it says
    something else; the others went before it.
    """
    users = [one for one in request.messages if one.get("role") == "user"]
    return replace(request, messages=users[-1:], compares=False)


async def _branch(call: HttpCall, address: Address, request: TurnRequest, index: int) -> Address:
    """A thread of its own for the history that differs here, with what was said before. Its name
    says where it differs, so that the next request finds it.
    """
    resent = history.utterances_resent(request.messages)
    digest = id_from(*(f"{one.role}:{one.text}" for one in resent[: index + 1])).removeprefix("msg_")[:12]
    branch = call.application.address(f"{address.channel.partition('~')[0]}~{digest}", address.tenant)
    for scope in ("send", "read"):
        call.principal.require(scope, branch.channel)
    if await call.application.store.thread(branch) is None:
        ends = history.answer_before(request.messages)
        await _write_past(call, branch, _items_of(call, request.messages[:ends]), once=f"branch\0{branch.channel}")
    return branch


async def _take_others_answers(call: HttpCall, address: Address, request: TurnRequest, index: int) -> int:
    """Write into the transcript what was said since to somebody else, or before it came here; the
    place of what is to be answered.
    """
    resent = history.utterances_resent(request.messages)
    ends = [at for at, one in enumerate(resent, 1) if one.role == "assistant" and at > index]
    if not request.compares or not ends:
        return index
    last = history.answer_before(request.messages)
    # What stands before `index` is in the transcript: users are counted, for only they stay single.
    skip = sum(one.role == "user" for one in resent[:index])
    users = [at for at, one in enumerate(request.messages) if one.get("role") == "user"]
    start = users[skip] if index else 0
    digest = id_from(address.channel, *(f"{one.role}:{one.text}" for one in resent[: ends[-1]]))
    await _write_past(call, address, _items_of(call, request.messages[start:last]), once=digest)
    return ends[-1]


async def _send(call: HttpCall, address: Address, request: TurnRequest, index: int) -> AnswerName:
    """Take in what is new; the name of the last one."""
    messages = _new_messages(call, address, request, index)
    thread_id, message_id = "", ""
    for message in messages:
        thread_id, message_id = await _accept(call, message, is_named=request.message_id is not None)
    return AnswerName(thread_id, message_id)


async def _accept(call: HttpCall, message: Message, *, is_named: bool) -> tuple[str, str]:
    for _ in range(MOST_REPEATS):
        receipt = await call.limits.accept(call.application, call.principal, message)
        record = None
        if receipt.repeated and not is_named:
            record = await call.application.store.message(message.address, message.message_id)
        if record is None or record.status not in ("dead", "withdrawn"):
            return receipt.thread_id, receipt.message_id
        # It was said before and never answered: whoever says it once more wants an answer.
        message = message.but(message_id=id_from(message.message_id, f"{record.settled_at}"))
    raise Conflict("nobody could answer this message, however often it was sent: change it, or ask the operator why")


def _new_messages(call: HttpCall, address: Address, request: TurnRequest, index: int) -> list[Message]:
    users = [one for one in request.messages if one.get("role") == "user"]
    resent = history.utterances_resent(request.messages)
    count = len(resent) - index if request.compares else len(users)
    fresh = users[-count:] if count else []
    if not fresh:
        raise InvalidMessage("there is no message of a user to answer")
    texts = [f"{one.role}:{one.text}" for one in resent]
    messages = []
    for number, one in enumerate(fresh, start=1):
        message_id = request.message_id
        if message_id is not None and number < len(fresh):
            message_id = id_from(message_id, str(number))
        elif request.compares and message_id is None:
            # Its place in the conversation is what tells two equal messages apart, and a repeat from both.
            message_id = id_from(address.channel, *texts[: len(texts) - len(fresh) + number])
        is_last = number == len(fresh)
        wishes = request.wishes if is_last else {"user": request.wishes.get("user")}
        messages.append(message_of(call, address, content=one.get("content"), message_id=message_id, wishes=wishes))
    return messages


async def _regenerate(call: HttpCall, address: Address, message_id: str) -> AnswerName:
    call.limits.check_rate(call.principal, address)
    receipts = await call.application.store.regenerate(address, once=call.once)
    return AnswerName(receipts[-1].thread_id, receipts[-1].message_id)


# ---------------------------------------------------------------- alone


async def _ask_alone(call: HttpCall, request: TurnRequest, stack: AsyncExitStack) -> TurnAnswer:
    """Without a key: a thread that nobody else names, forgotten with its answer. Title and tag
    generators of front ends ask like that, and must never enter a conversation.
    """
    past, question = _split(call, request)
    address = (await new_thread(call)).address
    await _forget_in_time(call, address, stack)
    question = await _begin(call, address, past, replace(question, wishes={**request.wishes, "flush": True}))
    reader = await stack.enter_async_context(TurnReader(call, address))
    name = await _send(call, address, question, 0)
    return await _answer_of(call, Question(address, name), reader, stack)


async def new_thread(
    call: HttpCall, purpose: str = "", *, metadata: Mapping[str, str | None] | None = None
) -> ThreadRecord:
    """An empty one of the tenant. Raises `NotAllowed`, and what `HttpCall.make_thread` does."""
    for scope in ("send", "read"):
        call.principal.require(scope)
    return await call.make_thread(purpose, metadata=metadata)


def _split(call: HttpCall, request: TurnRequest) -> tuple[Sequence[Item], TurnRequest]:
    """What was said before, and what is to be answered. Raises what is wrong with them, before a thread is made
    that a name would keep.
    """
    ends = history.answer_before(request.messages)
    past = _items_of(call, request.messages[:ends])
    question = replace(request, messages=request.messages[ends:], compares=False)
    _new_messages(call, call.application.address("new", call.principal.tenant), question, 0)
    return past, question


async def _begin(call: HttpCall, address: Address, past: Sequence[Item], question: TurnRequest) -> TurnRequest:
    """What was said before goes into a new thread; what is left to be sent."""
    if await _named_repetition(call, address, question) is not None:
        return _last_of(question)
    await _write_past(call, address, past, once=None if call.once is None else "beginning")
    return question


async def _forget_in_time(call: HttpCall, address: Address, stack: AsyncExitStack) -> None:
    """With its answer; where its caller names the request, with the name: a repeat gets that answer."""
    if call.once is None:
        stack.push_async_callback(_forget, call, address)
    else:
        await call.application.store.update(address, {"ttl": RESULT_LIFETIME}, once=call.once_for("ttl"))


async def _forget(call: HttpCall, address: Address) -> None:
    record = await call.application.store.thread(address)
    # One that waits for outputs of the caller's functions goes on with his next request.
    if record is not None and record.state != "held":
        with suppress(Rejection):
            await forget_at_work(call.application.store, address)


def _items_of(call: HttpCall, messages: Sequence[Mapping[str, Any]]) -> Sequence[Item]:
    return [item for message in messages for item in past_items(call, message)]


async def _write_past(call: HttpCall, address: Address, items: Sequence[Item], *, once: str | None) -> None:
    """Put what was said before into the transcript, turn by turn, so that the newest turns are
    remembered where all of them are too much.
    """
    count = tokenizer_for(call.application.model_name, call.application.catalog).count_item
    for number, turn in enumerate(turns_of(items)):
        entries = [TranscriptEntry(item, count(item)) for item in turn]
        name = acts.once(call.principal, f"{once}\0{number}") if once else None
        await call.application.store.append(address, entries, once=name)


def past_items(call: HttpCall, message: Mapping[str, Any]) -> list[Item]:
    """What was said in it, as a transcript has it."""
    text = plain_text(message.get("content"))
    match message.get("role"):
        case "user":
            return [UserItem(read_past_content(call, message.get("content")))]
        case "assistant":
            calls = [CallItem(one.call_id, one.name, one.arguments) for one in _calls_of(message)]
            return [*([AssistantItem(text)] if text.strip() else []), *calls]
        case "tool":
            return [OutputItem(str(message.get("tool_call_id")), text)]
    return []


def _calls_of(message: Mapping[str, Any]) -> list[HeldCall]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(one, Mapping) for one in calls):
        raise InvalidMessage("'tool_calls' must be a list of objects")
    return [_call_of(one, one["function"]) for one in calls if isinstance(one.get("function"), Mapping)]


def _call_of(call: Mapping[str, Any], function: Mapping[str, Any]) -> HeldCall:
    call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments") or "{}"
    if not (isinstance(call_id, str) and isinstance(name, str) and isinstance(arguments, str)):
        raise InvalidMessage("a call needs its 'id', and a 'function' of 'name' and 'arguments', all of them texts")
    return HeldCall(call_id, name, arguments, "")


# ---------------------------------------------------------------- outputs of the caller's functions


def outputs_of(messages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The outputs at the end of a request, by call."""
    outputs: dict[str, str] = {}
    for message in reversed(messages):
        if message.get("role") == "tool":
            outputs[str(message.get("tool_call_id"))] = plain_text(message.get("content"))
        elif message.get("role") not in ("system", "developer"):
            break
    return outputs


async def _give_outputs(
    call: HttpCall, address: Address | None, outputs: Mapping[str, str], request: TurnRequest, stack: AsyncExitStack
) -> TurnAnswer:
    """Decide the calls that wait for these outputs, and follow how their turn goes on."""
    is_alone = address is None
    if address is None:
        # The id of a call that was asked for alone says whose it is.
        threads = {thread_id for thread_id, _ in map(split_call_id, outputs) if thread_id}
        if len(threads) != 1:
            raise InvalidMessage("these outputs are for calls that do not wait here, or not any more")
        address = call.application.address(threads.pop(), call.principal.tenant)
        for scope in ("send", "read"):
            call.principal.require(scope)
    record = await call.application.store.thread(address)
    if record is None:
        raise NotFound("the conversation of these outputs is not there any more")
    if is_alone:
        await _forget_in_time(call, address, stack)
    by_call = {split_call_id(call_id)[1]: output for call_id, output in outputs.items()}
    return await follow_outputs(call, record, by_call, stack)


async def follow_outputs(
    call: HttpCall, record: ThreadRecord, outputs: Mapping[str, str], stack: AsyncExitStack
) -> TurnAnswer:
    """Raises `NotFound` where none of these calls is known, `InvalidMessage` where one lacks its output."""
    address = record.address
    call.principal.require("approve", address.channel)
    waiting = [one for one in record.calls if one.kind == "output" and one.decision is None]
    if record.state != "held" or not waiting:
        return await _follow_decided(call, record, outputs, stack)
    if missing := [one.call_id for one in waiting if one.call_id not in outputs]:
        raise InvalidMessage(f"an output is missing for {', '.join(missing)[:300]}: give all in one request")
    name = AnswerName(record.thread_id, await _last_of_batch(call, address))
    answer = await _follow_calls(call, address, name, [one.call_id for one in waiting], stack)
    await give(call, address, waiting, outputs)
    return answer


async def _follow_calls(
    call: HttpCall, address: Address, name: AnswerName, calls: Sequence[str], stack: AsyncExitStack
) -> TurnAnswer:
    """What the turn says behind the outputs of these calls."""
    outline = await outline_of(call, address, name.message_id)
    cursor = outline.behind(calls)
    if cursor is None:  # the log is younger than the calls
        page = await call.application.store.read(address, after=0, limit=1)
        cursor = LogCursor(page.epoch, page.top, calls=tuple(calls))
    name = replace(name, segment=outline.holds.index(cursor) + 1 if cursor in outline.holds else 1)
    reader = await stack.enter_async_context(TurnReader(call, address, cursor))
    return await _answer_of(call, Question(address, name), reader, stack)


async def give(call: HttpCall, address: Address, waiting: Sequence[HeldCall], outputs: Mapping[str, str]) -> None:
    """Decide each of these calls with its output."""
    for one in waiting:
        body = {"call_id": one.call_id, "digest": one.digest, "decision": "output", "output": outputs[one.call_id]}
        await acts.decide(call.application, call.principal, address, body, once=None)


async def _last_of_batch(call: HttpCall, address: Address) -> str:
    ids = [one.message_id for one in await call.application.store.open_messages(address) if one.status == "running"]
    if not ids:
        raise NotFound("no turn of this conversation waits for outputs")
    return ids[-1]


async def _follow_decided(
    call: HttpCall, record: ThreadRecord, outputs: Mapping[str, str], stack: AsyncExitStack
) -> TurnAnswer:
    """They were given before: a repeat, after a reply that was lost, follows the same turn."""
    address = record.address
    if any(one.call_id in outputs for one in record.calls):
        name = AnswerName(record.thread_id, await _last_of_batch(call, address))
        return await _follow_calls(call, address, name, list(outputs), stack)
    past = await call.application.store.history(address)
    turns = {e.turn for e in past.entries if isinstance(e.item, CallItem) and e.item.call_id in outputs}
    users = [e.item for e in past.entries if e.turn in turns and isinstance(e.item, UserItem)]
    if not users or not users[-1].message_id:
        raise NotFound("none of these calls waits here, or was made here")
    return await _follow_calls(call, address, AnswerName(record.thread_id, users[-1].message_id), list(outputs), stack)


def call_id_alone(question: Question, call_id: str) -> str:
    """The id of a call whose conversation has no key: the next request has nothing else that names it."""
    return f"{call_id}~{question.name.thread_id.removeprefix('thread_')}"


def split_call_id(call_id: str) -> tuple[str | None, str]:
    """The thread that such an id names, if it does, and the call."""
    head, mark, thread = call_id.rpartition("~")
    return (f"thread_{thread}", head) if mark and thread else (None, call_id)
