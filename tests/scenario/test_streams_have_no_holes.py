"""P7: a subscriber that returns with (epoch, offset) gets exactly what it missed."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.scenario.house import opened
from turnkeep.events import Event


@pytest.mark.prove
async def test_a_stream_cut_at_any_offset_goes_on_without_hole_or_repeat(
    store: str, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    cuts, source = size(60, 1000), random.Random(7)
    seen: list[Event] = []
    resumed = 0
    async with opened(store) as house:
        channel = 0
        while resumed < cuts:
            name, mine = f"c{channel}", []  # type: tuple[str, list[Event]]
            await house.send(name, "talk [[words:80]] [[pace:1]]")
            while not (mine and mine[-1].is_final):
                position = {"after": mine[-1].offset, "epoch": mine[-1].epoch} if mine else {"after": 0, "epoch": ""}
                async with house.stream(name, **position) as stream:
                    mine += await house.until(stream, after_some(source.randint(1, 12)))
                    resumed += 1
            # a machine that stood still: silence is told beside the log, at the place of the event before it
            mine = [event for event in mine if event.error is None or event.error.code != "silent"]
            offsets = [event.offset for event in mine]
            assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
            text = "".join(event.text for event in mine if event.kind == "delta")
            assert mine[-1].text == text
            seen += mine
            channel += 1
    proof("resume", f"disconnects {resumed} | holes 0 | repeats 0 | events {len(seen)}")


def after_some(count: int) -> Callable[[Event], bool]:
    """Wanted: the event after this many, or the last one."""
    left = count

    def wanted(event: Event) -> bool:
        nonlocal left
        left -= 1
        return left < 0 or event.is_final

    return wanted
