"""The last look at a transcript before it becomes a request: every call has exactly one output.

Providers refuse a request with a call that lacks its output, an output that lacks its call, or a
reasoning item that lacks what it led to; one such item would make a thread unanswerable for ever.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from turnkeep.messages import CallItem, Item, OutputItem

MISSING_OUTPUT = "outcome unknown, interrupted"


def pair(items: Sequence[Item]) -> list[Item]:
    """The same transcript, fit to be sent.

    Guarantees: each call is followed, right after the group of calls it belongs to, by exactly one
    output, made up with status ``unknown`` where none is there; outputs without a call and second
    outputs are gone; a reasoning item stays before its call or answer and is gone without one. All
    else is kept, in order. A transcript that is fit already comes back as it is, and pairing twice
    is pairing once.
    """
    return without_idle_reasoning(_regroup(*_match(items)))


def repair(items: Sequence[Item]) -> list[Item]:
    """What to send once more after a provider refused a paired transcript: the same without
    reasoning items.

    They are sealed by the provider and may no longer be readable to it (other key, other server).
    """
    return pair([item for item in items if item.kind != "reasoning"])


def _match(items: Sequence[Item]) -> tuple[list[Item], dict[int, int]]:
    """The items without stray outputs, and the place of each answered call with the
    place of its output.
    """
    waiting: defaultdict[str, deque[int]] = defaultdict(deque)
    result: list[Item] = []
    output_of: dict[int, int] = {}
    for item in items:
        if isinstance(item, OutputItem):
            if not waiting[item.call_id]:
                continue
            # Where servers give two calls one id, the older is answered first.
            output_of[waiting[item.call_id].popleft()] = len(result)
        elif isinstance(item, CallItem):
            waiting[item.call_id].append(len(result))
        result.append(item)
    return result, output_of


def _regroup(items: list[Item], output_of: dict[int, int]) -> list[Item]:
    """Each group of calls with all its outputs right behind it."""
    result: list[Item] = []
    group: list[int] = []
    for place, item in enumerate(items):
        if group and not _continues(items, place):
            result += _outputs(items, group, output_of)
            group = []
        if isinstance(item, OutputItem):
            continue
        if isinstance(item, CallItem):
            group.append(place)
        result.append(item)
    return result + _outputs(items, group, output_of)


def _continues(items: list[Item], place: int) -> bool:
    """Whether the entry at this place still belongs to the group of calls before it."""
    while place < len(items) and items[place].kind in ("reasoning", "hosted"):
        place += 1
    return place < len(items) and items[place].kind == "call"


def _outputs(items: list[Item], group: list[int], output_of: dict[int, int]) -> list[Item]:
    outputs = [items[place] for place in sorted(output_of[call] for call in group if call in output_of)]
    return outputs + [_unknown_output(items[call]) for call in group if call not in output_of]


def _unknown_output(call: Item) -> OutputItem:
    assert isinstance(call, CallItem)  # noqa: S101
    # Neither done nor not done: saying either would make the model repeat it, or rely on it.
    return OutputItem(call.call_id, MISSING_OUTPUT, "unknown")


def without_idle_reasoning(items: Sequence[Item]) -> list[Item]:
    """The items without reasoning that leads to no call and no answer."""
    result: list[Item] = []
    leads_somewhere = False
    for item in reversed(items):
        if item.kind != "reasoning":
            leads_somewhere = item.kind in ("call", "assistant", "hosted")
        elif not leads_somewhere:
            continue
        result.append(item)
    return result[::-1]
