"""What people are told of an error: six sentences by cause, each of which a file may
replace or translate.

The file is TOML. Its keys are causes (`rate_limit`, `timeout`, `connection`, `invalid_request`,
`thread_not_found`, `tool_failure`) or codes of errors, its values the sentences. A code goes before
a cause, a code before those above it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from turnkeep import toml
from turnkeep.errors import ConfigurationError, TurnkeepError

CAUSES: Mapping[str, tuple[str, ...]] = {
    "rate_limit": ("model_rate_limited",),
    "timeout": ("model_timed_out", "run_timed_out"),
    "connection": ("model_unavailable", "answer_malformed", "store_error"),
    "invalid_request": ("invalid_message", "model_refused"),
    "thread_not_found": ("thread_not_found",),
    "tool_failure": ("tool_error", "too_many_steps"),
}
LONGEST = 500
"""Characters of a sentence."""

Sentences = Callable[[TurnkeepError], str]


def sentences(file: Path | None) -> Sentences:
    """The sentence for each error.

    Raises `ConfigurationError` that tells everything that is wrong with the file.
    """
    texts = {} if file is None else _read(file)

    def sentence_for(error: TurnkeepError) -> str:
        return next((texts[code] for code in _codes(type(error)) if code in texts), error.public)

    return sentence_for


def _codes(kind: type[TurnkeepError]) -> Iterator[str]:
    """The code of an error, then those of its parents for as long as it has no sentence of its own."""
    for one in kind.__mro__:
        if issubclass(one, TurnkeepError):
            yield one.code
        if "public" in vars(one):
            return


def _read(file: Path) -> dict[str, str]:
    try:
        values = toml.parse(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the sentences in {file} cannot be read: {error}") from error
    names = {*CAUSES, *_all_codes(TurnkeepError)}
    wrong = [f"{name}: no such cause and no such code" for name in values if name not in names]
    wrong += [
        f"{name}: expected a text of 1 to {LONGEST} characters"
        for name, value in values.items()
        if not isinstance(value, str) or not 0 < len(value.strip()) <= LONGEST
    ]
    # all at once: a file of translations is mended in one go
    if wrong:
        raise ConfigurationError(f"wrong sentences in {file}:\n  " + "\n  ".join(wrong))
    by_cause = {code: values[cause] for cause, codes in CAUSES.items() if cause in values for code in codes}
    return by_cause | {name: value for name, value in values.items() if name not in CAUSES}


def _all_codes(kind: type[TurnkeepError]) -> Iterator[str]:
    yield kind.code
    for child in kind.__subclasses__():
        yield from _all_codes(child)
