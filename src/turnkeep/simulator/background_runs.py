"""Background responses: they run beside the request that asked, can be cancelled, and
their stream resumed.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from turnkeep.simulator.delivery import wire_of
from turnkeep.simulator.faults import Fault, disturb
from turnkeep.simulator.frames import FOREVER, ClientGone, FrameStream, ReplyFrame, until_disconnect
from turnkeep.simulator.problems import Problem, bad
from turnkeep.simulator.prompt import Json
from turnkeep.simulator.responses_api import Responses, StoredResponse
from turnkeep.simulator.world import World

# A background response goes on without its connection, so a fault strikes either the run or one
# view of it; only the first is seen by whoever resumes.
_OF_THE_RUN = ("stall", "failed", "error", "early-error")
_OF_THE_CONNECTION = ("cut", "truncate")


class BackgroundRuns:
    """Runs responses to their end whether or not anybody watches."""

    def __init__(self, world: World, responses: Responses) -> None:
        self._world = world
        self._responses = responses

    def start(self, entry: StoredResponse, fault: Fault | None) -> None:
        entry.task = self._world.spawn(self._run(entry, fault if fault and fault.kind in _OF_THE_RUN else None))

    def cancel(self, response_id: str) -> Json:
        """Idempotent; what has ended stays as it is."""
        entry = self._responses.get(response_id)
        if not entry.response["background"]:
            raise bad("Cannot cancel a synchronous response.")
        if not entry.is_done:
            entry.response["status"] = "cancelled"
            entry.response["usage"] = entry.run.usage()
            if entry.task is not None:
                entry.task.cancel()
            self._responses.release(entry)
            self._world.ledger.finish(entry.exchange, "cancelled")
            entry.tell()
        return entry.response

    def resume(self, response_id: str, starting_after: str | None) -> RunFollower:
        """The stream of a background response from after one of its events."""
        entry = self._responses.get(response_id)
        if not entry.streamable:
            raise bad(
                "This response cannot be streamed because it was not created with background=true and stream=true."
            )
        # A 400 in these words is what the platform answers (openai-python#2828): poll from then on.
        if self._world.clock.now() - entry.created_at > self._world.options.stream_expiry:
            raise bad("This response can no longer be streamed because it is more than 5 minutes old.")
        if starting_after is not None and not (starting_after.isdecimal() and len(starting_after) < 10):
            raise Problem(400, "Invalid 'starting_after': expected an integer.", param="starting_after")
        return self.follow(entry, None, -1 if starting_after is None else int(starting_after))

    def follow(self, entry: StoredResponse, fault: Fault | None, after: int = -1) -> RunFollower:
        return RunFollower(self._world, entry, fault, after=after)

    async def _run(self, entry: StoredResponse, fault: Fault | None) -> None:
        for frame in disturb(entry.run, fault):
            if frame.wait > 0:
                await self._world.clock.sleep(frame.wait)
            entry.exchange.sent += frame.delta
            if entry.streamable and frame.data:
                entry.frames.append(frame)
            if frame.act == "last":
                self._world.ledger.finish(entry.exchange, entry.run.outcome)
            entry.tell()
            # Without a pause the run would end within one turn of the loop, and nobody could watch
            # it, resume it or cancel it halfway.
            if not frame.wait:
                await asyncio.sleep(0)


class RunFollower:
    """The ASGI application of one view of a background response; leaving it changes nothing.

    After a cancel the stream ends without a terminal event: the platform has no such event.
    """

    def __init__(self, world: World, entry: StoredResponse, fault: Fault | None, *, after: int) -> None:
        self._world = world
        self._entry = entry
        self._fault = fault if fault is not None and fault.kind in _OF_THE_CONNECTION else None
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = FrameStream(send, wire_of(scope), self._world.dice if self._world.options.split else None)
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(until_disconnect(receive))
                headers = self._world.headers(self._entry.exchange.request_id)
                await stream.begin([(name.encode(), value.encode()) for name, value in headers.items()])
                await self._follow(stream)
                watcher.cancel()
        except* ClientGone:
            pass

    async def _follow(self, stream: FrameStream) -> None:
        entry, at, deltas = self._entry, self._after + 1, 0
        while True:
            # Taken before the frames are looked at: what comes in between sets this very event.
            change = entry.change
            while at < len(entry.frames):
                frame = entry.frames[at]
                fault = self._fault
                if fault is not None and not frame.head and (deltas >= fault.after or frame.act == "last"):
                    await _strike(fault, stream, frame)
                    return
                await stream.write(frame.data)
                deltas += frame.delta
                at += 1
            if entry.is_done:
                break
            await change.wait()
        await stream.end()


async def _strike(fault: Fault, stream: FrameStream, frame: ReplyFrame) -> None:
    if fault.kind == "truncate":
        await stream.end()
        return
    await stream.write(frame.data[: len(frame.data) // 2])
    await stream.drop(reset=fault.how == "reset")
    await asyncio.sleep(FOREVER)  # the watcher ends this
