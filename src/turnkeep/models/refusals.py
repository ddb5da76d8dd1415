"""What the refusal of a request teaches about its server.

A refusal costs nothing but time, so a request that was refused for its form is made again in the
form that the server asks for, and the form is remembered for the model at this endpoint. Nothing is
learned that would take away what the answer is about: the tools, the last turn's pictures, the
format of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from turnkeep import toml
from turnkeep.lean_dataclass import dataclass
from turnkeep.models.capabilities import Lesson

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")

# Without these the answer would be another one.
_ESSENTIAL = frozenset(["model", "messages", "input", "stream", "tools", "instructions", "response_format", "text"])

_ATTACHMENT_NAMES = re.compile(r"reason|think|thought|signature|extra_content|provider_specific")

_REFUSING = re.compile(
    r"unknown|unrecogni[sz]ed|unsupported|unexpected|extra\b|additional|extraneous|n.t support|not support"
    r"|(?:not|never) (?:\w+ )?(?:supported|allowed|permitted|recogni[sz]ed|expected|accepted|valid|exist)"
    r"|only supported|must be unset|not a valid|invalid (?:field|parameter|argument|property)",
    re.I,
)

# Another value may be taken: nothing is learned for other requests.
_OF_A_VALUE = re.compile(r"\bvalues?\b|one of|must be|between|only supports?\b|at (?:least|most)", re.I)


def lessons_in(sentence: str, body: Mapping[str, Any]) -> Iterator[Lesson]:
    """What these words teach about this request, the likeliest first."""
    for rule in _rules():
        if not rule.says.search(sentence):
            continue
        if rule.changes:
            yield Lesson(rule.changes, rule.remember)
        elif rule.limit:
            yield from _of_limit(rule, sentence, body)
        else:
            yield from _of_fields(rule.says, sentence, body)
    yield from _of_named(sentence, body)


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `refusals.toml`; without changes it is about the field, or (`limit`) the number,
    that is named.
    """

    says: re.Pattern[str]
    changes: Mapping[str, Any]
    remember: bool
    limit: bool


@cache
def _rules() -> tuple[Rule, ...]:
    text = resources.files("turnkeep.models").joinpath("refusals.toml").read_text("utf-8")
    return tuple(
        Rule(
            re.compile(rule["says"], re.I | re.S),
            rule.get("then", {}),
            rule.get("remember", True),
            rule.get("limit", False),
        )
        for rule in toml.parse(text)["refusal"]
    )


def _of_limit(rule: Rule, sentence: str, body: Mapping[str, Any]) -> Iterator[Lesson]:
    """How long an answer may be, by itself (`most`) or beside the question (`context`, less `input`
    where it is told).

    Where the question and its past take more than three quarters of the context, the limit is not
    the trouble.
    """
    match = rule.says.search(sentence)
    groups = match.groupdict() if match else {}
    # Twelve digits: the sentence is a server's, and thousands of digits are no number to Python.
    numbers = {name.rstrip("2"): int(text.replace(",", "")[:12]) for name, text in groups.items() if text}
    limit = max((body[name] for name in _LIMITS if isinstance(body.get(name), int)), default=0)
    context = numbers.get("context", 0)
    room = context - numbers["input"] if "input" in numbers else context // 4 if limit * 2 > context else 0
    most = numbers.get("most", room if room * 4 >= context else 0)
    if 0 < most < limit:
        yield Lesson({"most_output_tokens": most}, rule.remember)


def _of_fields(says: re.Pattern[str], sentence: str, body: Mapping[str, Any]) -> Iterator[Lesson]:
    names = [_last_word(path) for match in says.finditer(sentence) for path in match.groupdict().values() if path]
    fields = {_snake(name) for name in names}
    if drops := {name for name in fields if name in body and _may_go(name, body[name])}:
        # The limit itself never goes: it is sent under its other name.
        if drops & {"max_tokens", "max_completion_tokens"}:
            yield Lesson({"takes_max_completion_tokens": "max_tokens" in drops})
        yield Lesson({"drops": drops - {"max_tokens", "max_completion_tokens"}})
    if "strict" in fields:
        yield Lesson({"takes_strict_tools": False})
    if any(_ATTACHMENT_NAMES.search(name) for name in fields - set(body)):
        yield Lesson({"takes_thoughts": False})
    if keywords := {name for name in names if _is_keyword(name, body.get("tools"))}:
        yield Lesson({"drops_keywords": keywords})


def _of_named(sentence: str, body: Mapping[str, Any]) -> Iterator[Lesson]:
    """The fields of this request that a refusal names in whatever sentence, where it is one of an
    unknown field.

    A name that is a word as well counts only in quotes: `store` is said of many things.
    """
    if not _REFUSING.search(sentence):
        return
    names = {name for name in body if _may_go(name, body[name]) and _is_named(name, sentence)}
    if drops := names - {"max_tokens", "max_completion_tokens"}:
        yield Lesson({"drops": drops}, remember=not _OF_A_VALUE.search(sentence))
    entries = [entry for list_ in ("input", "messages") for entry in body.get(list_, ()) if isinstance(entry, Mapping)]
    if any("phase" in entry for entry in entries) and re.search(r"\bphase\b", sentence):
        yield Lesson({"drops": {"phase"}})


def _is_named(name: str, sentence: str) -> bool:
    in_quotes = rf"[\\\"'`\[]{name}[\\\"'`\]]"
    return re.search(rf"(?<![\w.]){name}\b(?!\.)" if "_" in name else in_quotes, sentence) is not None


def _may_go(name: str, value: object) -> bool:
    return name not in _ESSENTIAL and (name != "tool_choice" or value in ("auto", "none"))


def _last_word(path: str) -> str:
    """The field at the end of a path like `body.messages[2].reasoning_content`."""
    steps = [step for step in re.split(r"[.\[\]/]+", path) if step and not step.isdecimal()]
    return steps[-1] if steps else path


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _is_keyword(name: str, tools: object) -> bool:
    """Whether a tool's parameters use this word as a keyword of their schema, not as the
    name of a property.
    """
    if isinstance(tools, list):
        return any(_is_keyword(name, tool) for tool in tools)
    if not isinstance(tools, Mapping):
        return False
    function = tools.get("function")
    parameters = function.get("parameters") if isinstance(function, Mapping) else tools.get("parameters")
    return name not in ("type", "properties") and _uses(parameters, name)


def _uses(schema: object, keyword: str) -> bool:
    if isinstance(schema, list):
        return any(_uses(entry, keyword) for entry in schema)
    if not isinstance(schema, Mapping):
        return False
    inner = (v for k, value in schema.items() for v in (value.values() if k == "properties" else (value,)))
    return keyword in schema or any(_uses(value, keyword) for value in inner)
