"""Options of a constructor that stand for settings, some under names of their own: an option that does
not exist, or that says the same as a setting beside it, is refused in the names that were given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.spelling import meant_name, strangers_sentence


def check_options(
    taker: Callable[..., Any], title: str, settings: Mapping[str, object], *, times: Collection[str] = ()
) -> None:
    """Raises `ConfigurationError` for options that are neither parameters of `taker` nor settings.

    `times`: parameters that others count in milliseconds; who means one of them is told the unit.
    """
    parameters = [name for name in inspect.signature(taker).parameters if name not in ("self", "settings")]
    options = [*parameters, *Settings.model_fields]
    variables = Settings.variable_names()
    strangers = [name for name in settings if name not in options and name.upper() not in variables]
    if not strangers:
        return
    sentence = strangers_sentence(title, strangers, options)
    if any(meant_name(name, parameters) in times for name in strangers):
        sentence += "\nTimes are seconds here, not milliseconds."
    raise ConfigurationError(sentence)


def load_options(
    values: Mapping[str, Any], settings: Mapping[str, Any], aliases: Mapping[str, str], *, exclusive: Collection[str]
) -> Settings:
    """The settings that these are: `values` by the fields behind the options, `settings` by name.

    `aliases` name the option that stands for a field. Of a field in `exclusive` both at once are
    refused; of others, whose options have defaults, it cannot be told whether they were given.
    Raises `ConfigurationError`, in the names that were given.
    """
    for field in exclusive:
        if None not in (values.get(field), settings.get(field)):
            raise ConfigurationError(f"{aliases[field]} and {field} are two names of one setting, give one of them")
    spelling = {field: option for field, option in aliases.items() if field not in settings}
    options = {name: value for name, value in {**values, **settings}.items() if value is not None}
    return Settings.load(spelling, **options)
