"""Ids of calls in the form that a server takes. What others gave them, models among them, may have any."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from turnkeep.messages import CallItem, Item, OutputItem
from turnkeep.models.capabilities import CallIdForm

# OpenAI takes 64 characters in Responses and 40 in Chat Completions.
_FORMS: dict[CallIdForm, tuple[re.Pattern[str], Callable[[str], str]]] = {
    "any": (re.compile(r"[^\x00-\x1f]{1,40}"), lambda call_id: f"call_{digest(call_id, 24)}"),
    "word": (re.compile(r"[a-zA-Z0-9_-]{1,40}"), lambda call_id: f"call_{digest(call_id, 24)}"),
    "nine": (re.compile(r"[a-zA-Z0-9]{9}"), lambda call_id: digest(call_id, 9)),
}


def respell_calls(items: list[Item], rename: Callable[[str], str], form: CallIdForm) -> list[Item]:
    """The items with names and ids of calls in the form of the server; one call has one id, no two
    have the same.
    """
    own = _own_ids(items)
    ids = _ids((own[place] for place in sorted(own)), form)
    result: list[Item] = []
    for place, item in enumerate(items):
        match item:
            case CallItem():
                call_id, name = ids[own[place]], rename(item.name)
                # What fits stays the same object: most servers take everything as it is.
                same = (call_id, name) == (item.call_id, item.name)
                result.append(item if same else replace(item, call_id=call_id, name=name))
            case OutputItem() if place in own and ids[own[place]] != item.call_id:
                result.append(replace(item, call_id=ids[own[place]]))
            case _:
                result.append(item)
    return result


def _own_ids(items: Sequence[Item]) -> dict[int, str]:
    """By the place of each call and output the id of the call, made different where two calls have
    the same.
    """
    own: dict[int, str] = {}
    times: Counter[str] = Counter()
    waiting: defaultdict[str, deque[str]] = defaultdict(deque)
    for place, item in enumerate(items):
        if isinstance(item, CallItem):
            times[item.call_id] += 1
            # NUL fits none of the forms below: the second of two equal ids is always replaced.
            own[place] = f"{item.call_id}\0{times[item.call_id]}" if times[item.call_id] > 1 else item.call_id
            waiting[item.call_id].append(own[place])
        elif isinstance(item, OutputItem) and waiting[item.call_id]:
            own[place] = waiting[item.call_id].popleft()
    return own


def _ids(call_ids: Iterable[str], form: CallIdForm) -> dict[str, str]:
    """By each id the one that is sent: itself where it fits, else always the same other one."""
    pattern, make = _FORMS[form]
    distinct_ids = list(dict.fromkeys(call_ids))
    ids = {call_id: call_id for call_id in distinct_ids if pattern.fullmatch(call_id)}
    in_use = set(ids)
    for call_id in distinct_ids:
        if call_id not in ids:
            # From the id alone, not by chance: the same prefix of a transcript has to stay cached.
            other, round_ = make(call_id), 0
            while other in in_use:
                round_ += 1
                other = make(f"{call_id}#{round_}")
            in_use.add(other)
            ids[call_id] = other
    return ids


def digest(text: str, length: int) -> str:
    # Names and ids come from models too: half a character must not break a request.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
