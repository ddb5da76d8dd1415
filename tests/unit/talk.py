"""A conversation that leaves a word wherever a store keeps what people say."""

from __future__ import annotations

from tests.contract.suite.desk import Desk, at, delta, give_up
from turnkeep.events import CallDetail, Detail, Event, EventKind, FileDetail, ResultDetail
from turnkeep.messages import AssistantItem, Citation, OutputItem, UserItem, text_content
from turnkeep.store.values import Commit, Decision, HeldCall, TranscriptEntry


async def talk(desk: Desk, word: str, where: str, *, size: int) -> None:
    """Every place that holds what people say: messages, log, journal, calls, transcript, dead letters, results."""
    long, here = f"{word} " * size, at(where)
    store = desk.store
    claim = await desk.lease(f"{where}-1", where=here, content=text_content(long), instructions=long)
    await store.publish(claim, 0, [delta(f"{word} {n}") for n in range(20)])
    details: list[Detail] = [
        CallDetail("call_1", "tool", long),
        ResultDetail("call_1", "tool", output=long),
        Citation(url=word),
    ]
    kinds: list[EventKind] = ["tool_call", "tool_result", "source"]
    await store.publish(claim, 20, [Event(kind, detail=detail) for kind, detail in zip(kinds, details, strict=True)])
    await store.publish(claim, 23, [Event("reasoning", text=word), Event("file", detail=FileDetail(word, word, word))])
    await store.journal(claim, [{"n": 0, "step": long}])
    call = HeldCall("call_1", "tool", f'{{"a": "{word}"}}', "digest")
    await store.hold(claim, [call], expires_in=60.0)
    await store.decide(here, "call_1", "digest", Decision("denied", long), once=f"decide-{where}")
    [claim] = await desk.claims()
    entries = [
        TranscriptEntry(UserItem(text_content(long))),
        TranscriptEntry(OutputItem("call_1", long)),
        TranscriptEntry(AssistantItem(long)),
    ]
    await store.commit(claim, Commit("completed", long, entries))
    await store.append(here, [TranscriptEntry(AssistantItem(long, author="x"))], author="x")
    await store.compact(here, through_turn=1, summary=long)
    await store.update(here, {"metadata": {"note": word}}, once=f"update-{where}")
    await desk.say(f"{where}-2", where=here, content=text_content(long))
    await store.edit(here, f"{where}-2", text_content(long + "!"), once=f"edit-{where}")
    await desk.wait(60.0)
    for claim in await desk.claims():
        await store.fail(claim, give_up())
