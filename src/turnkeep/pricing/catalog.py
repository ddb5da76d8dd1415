"""What is known of each model, with dates: encoding, limits, accepted parameters, and when it ends.

The knowledge is data (``models.toml``), never code; a file of the same form overrides and adds. A
model that is not listed is no error: it works, without these facts.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Mapping
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass
from turnkeep.pricing.price_file import PricingFile, read_price_file, sentence

Rule = Literal["yes", "no", "effort_none"]

_DATE_SUFFIX = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_NAMES_REMEMBERED = 1_024

_CLOSE = 0.85


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model. `context` counts input and output together; None means not known.

    `sampling` (temperature, top_p) may hold only while the reasoning effort is none:
    ``effort_none``. `efforts` is empty where the model does not reason; `effort` counts when a
    request names none. From `ends` on requests fail.
    """

    name: str
    context: int | None = None
    output: int | None = None
    ends: date | None = None
    successor: str | None = None
    sampling: Rule = "yes"
    penalties: bool = True
    efforts: tuple[str, ...] = ()
    effort: str | None = None
    aliases: tuple[str, ...] = ()

    # A misspelt key in a person's file must not pass as a fact that nobody knows.
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def samples(self, effort: str | None = None) -> bool:
        """Does it take temperature and top_p at this reasoning effort (None: its own default)?"""
        return _holds(self.sampling, effort or self.effort)


@dataclass(frozen=True, slots=True)
class ModelWarning:
    """Something a person should know before the model is used; `str()` is a sentence."""

    kind: Literal["gone", "ends", "misspelt"]
    model: str
    sentence: str
    use: str | None = None

    def __str__(self) -> str:
        return self.sentence


_FACTS = TypeAdapter(ModelFacts)


class Catalog:
    """All models known, and the one used when nobody names another."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.as_of: date = data["as_of"]
        self.default: str = data["default"]
        self._newest: str = data["encodings"]["newest"]
        self._prefixes: Mapping[str, str] = data["encodings"]["prefixes"]
        self._models = {name: _facts(name, entry) for name, entry in data["models"].items()}
        self._aliases = {alias: facts for facts in self._models.values() for alias in facts.aliases}
        # for every request, of a few names; bounded, for people may write any
        self.model = functools.lru_cache(_NAMES_REMEMBERED)(self._find)
        """The facts of a model by its name, an alias, a dated snapshot, a fine-tune or ``vendor/name``."""

    @classmethod
    def load(cls, override: Path | None = None) -> Self:
        """The shipped list, with the entries of `override` (TOML or JSON) laid over it.

        Raises ConfigurationError for a file that cannot be read or says something
        that is not understood.
        """
        data = _shipped_data()
        if override is not None:
            data = _overlay(data, read_price_file(override))
        return cls(data)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def _find(self, name: str) -> ModelFacts | None:
        for form in _forms(name):
            if facts := self._models.get(form) or self._aliases.get(form):
                return facts
        return None

    def encoding(self, name: str) -> tuple[str, bool]:
        """The encoding of a model, and whether it is known (else the newest, as a guess)."""
        name = _forms(name)[-1]
        matches = [prefix for prefix in self._prefixes if name.startswith(prefix)]
        if not matches:
            return self._newest, False
        # The longest: `gpt-4o` begins with `gpt-4` and has another encoding.
        return self._prefixes[max(matches, key=len)], True

    def is_gone(self, name: str, today: date) -> bool:
        """Do requests to this model fail by now?"""
        facts = self.model(name)
        return facts is not None and facts.ends is not None and facts.ends <= today

    def check(self, name: str, today: date) -> list[ModelWarning]:
        """What speaks against using this model; empty for a model in good health and for one of
        another make.
        """
        facts = self.model(name)
        if facts is None:
            return self._misspelt(name, today)
        if facts.ends is None:
            return []
        better = facts.successor or self.default
        if self.is_gone(name, today):
            return [ModelWarning("gone", name, f"{name} ended on {facts.ends}: requests fail; use {better}", better)]
        return [ModelWarning("ends", name, f"{name} ends on {facts.ends}; successor {better}", better)]

    def suggest(self, name: str) -> str:
        """What to use instead: the successor, the nearest name, or our default."""
        facts = self.model(name)
        if facts is not None:
            return facts.successor or self.default
        return next(iter(difflib.get_close_matches(name, self._models, 1, _CLOSE)), self.default)

    def _misspelt(self, name: str, today: date) -> list[ModelWarning]:
        """A name of OpenAI's making that is not listed but close to one that is."""
        alive = [model for model in self._models if not self.is_gone(model, today)]
        # With a vendor, a date or a fine-tune in it a name is of another make.
        close = difflib.get_close_matches(name, alive, 1, _CLOSE) if _forms(name)[-1] == name else []
        if not close:
            return []
        sentence = f"{name} is not in the model list of {self.as_of}; did you mean {close[0]}?"
        return [ModelWarning("misspelt", name, sentence, close[0])]


@functools.cache
def _shipped_data() -> dict[str, Any]:
    return tomllib.loads(resources.files("turnkeep.pricing").joinpath("models.toml").read_text("utf-8"))


def _overlay(data: Mapping[str, Any], over: PricingFile) -> dict[str, Any]:
    """Model by model, key by key: what `over` says counts."""
    models = dict(data["models"])
    for name, entry in over.models.items():
        models[name] = {**models.get(name, {}), **entry}
    prefixes = {**data["encodings"]["prefixes"], **over.encodings}
    encodings = {"newest": data["encodings"]["newest"], "prefixes": prefixes}
    return {**data, "default": over.default or data["default"], "encodings": encodings, "models": models}


def _facts(name: str, entry: Mapping[str, Any]) -> ModelFacts:
    try:
        return _FACTS.validate_python({"name": name, **entry})
    except ValidationError as error:
        raise ConfigurationError(f"the facts of model {name} are not understood: {sentence(error)}") from error


@functools.lru_cache(1_024)
def _forms(name: str) -> tuple[str, ...]:
    """The names under which a model may be listed, from as given to bare."""
    bare = name.rsplit("/", 1)[-1]
    if bare.startswith("ft:"):
        bare = bare.split(":")[1]
    return name, bare, without_date(bare)


def without_date(name: str) -> str:
    """The name of a model without the date of its snapshot."""
    return _DATE_SUFFIX.sub("", name)


def _holds(rule: Rule, effort: str | None) -> bool:
    return rule == "yes" or (rule == "effort_none" and effort == "none")
