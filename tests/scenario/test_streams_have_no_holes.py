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
                    count = source.randint(1, 12)
                    mine += await house.until(
                        stream, lambda e, left=iter(range(count)): next(left, None) is None or e.is_final
                    )  # type: ignore[misc]
                    resumed += 1
            offsets = [event.offset for event in mine]
            assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
            text = "".join(event.text for event in mine if event.kind == "delta")
            assert mine[-1].text == text
            seen += mine
            channel += 1
    proof("resume", f"disconnects {resumed} | holes 0 | repeats 0 | events {len(seen)}")
