"""Background responses: they run beside the request that asked, can be cancelled, and their stream resumed."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from turnkeep.simulator.delivery import wire_of
from turnkeep.simulator.faults import Fault, disturb
from turnkeep.simulator.frames import FOREVER, ClientGone, Frame, FrameStream, until_disconnect
from turnkeep.simulator.problems import Problem, bad
from turnkeep.simulator.prompt import Json
from turnkeep.simulator.responses_api import Responses, StoredResponse
from turnkeep.simulator.world import World

_OF_THE_RUN = ("stall", "failed", "error", "early-error")
_OF_THE_CONNECTION = ("cut", "truncate")


class BackgroundRuns:
    """Runs responses to their end whether or not anybody watches."""

    def __init__(self, world: World, responses: Responses) -> None:
        self._world = world
        self._responses = responses

    def start(self, kept: StoredResponse, fault: Fault | None) -> None:
        kept.task = self._world.spawn(self._run(kept, fault if fault and fault.kind in _OF_THE_RUN else None))

    def cancel(self, response_id: str) -> Json:
        """Idempotent; what has ended stays as it is."""
        kept = self._responses.get(response_id)
        if not kept.response["background"]:
            raise bad("Cannot cancel a synchronous response.")
        if not kept.is_done:
            kept.response["status"] = "cancelled"
            kept.response["usage"] = kept.run.usage()
            if kept.task is not None:
                kept.task.cancel()
            self._responses.release(kept)
            self._world.ledger.finish(kept.exchange, "cancelled")
            kept.tell()
        return kept.response

    def resume(self, response_id: str, starting_after: str | None) -> RunFollower:
        """The stream of a background response from after one of its events."""
        kept = self._responses.get(response_id)
        if not kept.streamable:
            raise bad(
                "This response cannot be streamed because it was not created with background=true and stream=true."
            )
        if self._world.clock.now() - kept.created_at > self._world.options.stream_expiry:
            raise bad("This response can no longer be streamed because it is more than 5 minutes old.")
        if starting_after is not None and not (starting_after.isdecimal() and len(starting_after) < 10):
            raise Problem(400, "Invalid 'starting_after': expected an integer.", param="starting_after")
        return self.follow(kept, None, -1 if starting_after is None else int(starting_after))

    def follow(self, kept: StoredResponse, fault: Fault | None, after: int = -1) -> RunFollower:
        return RunFollower(self._world, kept, fault, after)

    async def _run(self, kept: StoredResponse, fault: Fault | None) -> None:
        for frame in disturb(kept.run, fault):
            if frame.wait > 0:
                await self._world.clock.sleep(frame.wait)
            kept.exchange.sent += frame.delta
            if kept.streamable and frame.data:
                kept.frames.append(frame)
            if frame.act == "last":
                self._world.ledger.finish(kept.exchange, kept.run.outcome)
            kept.tell()
            if not frame.wait:
                await asyncio.sleep(0)


class RunFollower:
    """The ASGI application of one view of a background response; leaving it changes nothing.

    After a cancel the stream ends without a terminal event: the platform has no such event.
    """

    def __init__(self, world: World, kept: StoredResponse, fault: Fault | None, after: int) -> None:
        self._world = world
        self._kept = kept
        self._fault = fault if fault is not None and fault.kind in _OF_THE_CONNECTION else None
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = FrameStream(send, wire_of(scope), self._world.dice if self._world.options.split else None)
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(until_disconnect(receive))
                headers = self._world.headers(self._kept.exchange.request_id)
                await stream.begin([(name.encode(), value.encode()) for name, value in headers.items()])
                await self._follow(stream)
                watcher.cancel()
        except* ClientGone:
            pass

    async def _follow(self, stream: FrameStream) -> None:
        kept, at, deltas = self._kept, self._after + 1, 0
        while True:
            changed = kept.change
            while at < len(kept.frames):
                frame = kept.frames[at]
                fault = self._fault
                if fault is not None and not frame.head and (deltas >= fault.after or frame.act == "last"):
                    await _strike(fault, stream, frame)
                    return
                await stream.write(frame.data)
                deltas += frame.delta
                at += 1
            if kept.is_done:
                break
            await changed.wait()
        await stream.end()


async def _strike(fault: Fault, stream: FrameStream, frame: Frame) -> None:
    if fault.kind == "truncate":
        await stream.end()
        return
    await stream.write(frame.data[: len(frame.data) // 2])
    await stream.drop(reset=fault.how == "reset")
    await asyncio.sleep(FOREVER)  # the watcher ends this
