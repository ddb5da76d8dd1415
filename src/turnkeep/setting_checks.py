"""What settings are checked for, each check beside the sentence that says what was expected.

Checks only read: nothing is opened, asked or created here, for `turnkeep doctor` shows what is
wrong without starting.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from turnkeep.failpoints import read_points

MOST_OF_A_RATE = 1_000_000_000
_SECRET_WORDS = ("key", "secret", "password", "token", "url", "store", "proxy", "endpoint", "jwks")


class SettingChecks(BaseSettings):
    """The checks of all settings. They name fields that only the classes below it have."""

    @field_validator("*", mode="before")
    @classmethod
    def _has_no_blanks_around(cls, value: object) -> object:
        """What was pasted brings a blank or a newline along; no setting means one at its edge."""
        return value.strip() if isinstance(value, str) else value

    @field_validator("redis_url", check_fields=False)
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not urlsplit(value).scheme:
            raise ValueError("expected a URL with its scheme, like redis://localhost:6379/0")
        return _readable(value)

    @field_validator("rabbitmq_url", check_fields=False)
    @classmethod
    def _is_amqp(cls, value: str | None) -> str | None:
        return _address(value, "amqp", "amqps")

    @field_validator("exchange_name", "queue_name", "routing_key", "amqp_reply_exchange", check_fields=False)
    @classmethod
    def _is_amqp_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A name has 255 bytes; that of the dead exchange is longer by `_dlx`, of its
        queue by `_failed`.
        """
        most = {"exchange_name": 251, "queue_name": 248}.get(info.field_name or "", 255)
        if value is not None and len(value.encode(errors="replace")) > most:
            raise ValueError(f"expected at most {most} bytes")
        return value

    @field_validator("websocket_url", check_fields=False)
    @classmethod
    def _is_websocket(cls, value: str | None) -> str | None:
        return _address(value, "ws", "wss")

    @field_validator(
        "openai_base_url",
        "anthropic_base_url",
        "webhook_url",
        "url",
        "model_proxy",
        "openweather_url",
        "otel_endpoint",
        check_fields=False,
    )
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return _address(value, "http", "https")

    @field_validator("jwt_jwks", check_fields=False)
    @classmethod
    def _is_http_or_file(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            return _address(value, "http", "https")
        return value if value is None else str(_file(Path(value)))

    @field_validator("model_ca_file", "price_file", check_fields=False)
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        return None if value is None else _file(value)

    @field_validator("store", check_fields=False)
    @classmethod
    def _may_be_url(cls, value: str | None) -> str | None:
        return _readable(value)

    @field_validator("amqp_tenants", check_fields=False)
    @classmethod
    def _are_tenants(cls, value: dict[str, str]) -> dict[str, str]:
        if "" in value.values():
            raise ValueError("expected tenants that are texts of at least one character")
        return value

    @field_validator("weights", check_fields=False)
    @classmethod
    def _are_weights(cls, value: dict[str, float]) -> dict[str, float]:
        # Finite and above 0: a share is a division by it.
        if wrong := [tenant for tenant, weight in value.items() if not 0 < weight < math.inf]:
            raise ValueError(f"the weight of {wrong[0][:80]!r} must be a number above 0")
        return value

    @field_validator("proxies", check_fields=False)
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ipaddress.ip_network(one)
            except ValueError:
                raise ValueError(f"{one[:80]!r} is no address and no network, write 10.0.0.7 or 10.0.0.0/8") from None
        return value

    @field_validator(
        "channel_rate", "user_rate", "tenant_rate", "request_rate", "tenant_request_rate", "error_rate",
        "amqp_channel_rate", "amqp_tenant_rate",
        check_fields=False,
    )  # fmt: skip
    @classmethod
    def _is_rate(cls, value: str) -> str:
        parse_rate(value)
        return value

    @field_validator("failpoints", check_fields=False)
    @classmethod
    def _are_points(cls, value: str) -> str:
        read_points(value)
        return value


def env(*names: str, doc: str, default: Any, **limits: Any) -> Any:
    """A field with its environment names, first one preferred, and the sentence that the
    reference prints.
    """
    return Field(default=default, validation_alias=AliasChoices(*names), description=doc, **limits)


def parse_rate(value: str) -> tuple[int, float]:
    """`"20/10"` → 20 messages per 10 seconds; `"0"` → (0, 1): unlimited. Raises ValueError."""
    if value.strip() == "0":
        return 0, 1.0
    messages, _, over = value.partition("/")
    try:
        count, seconds = int(messages), float(over or 1)
    except ValueError:
        count, seconds = -1, 0.0
    # `not … >=`: a NaN is in no order, and must not pass as a number of seconds.
    if not 0 <= count <= MOST_OF_A_RATE or not MOST_OF_A_RATE >= seconds > 0:
        raise ValueError("expected MESSAGES/SECONDS, like 20/10")
    return count, seconds


def _readable(value: str | None) -> str | None:
    """Raises ValueError for a URL that whoever takes it apart could not."""
    if value is not None and "://" in value:
        try:
            parts = urlsplit(value)
            # Read only to see whether it can be: urlsplit takes wrong brackets and ports
            # and fails later.
            _ = parts.port, parts.hostname
        except ValueError:
            raise ValueError("this URL cannot be read, look at its brackets and its port") from None
    return value


def _address(value: str | None, *schemes: str) -> str | None:
    """Raises ValueError for what is no URL of these schemes with a host."""
    if value is None:
        return None
    if urlsplit(_readable(value) or "").scheme not in schemes or not (host := urlsplit(value).hostname):
        raise ValueError(f"expected a URL that begins with {' or '.join(f'{one}://' for one in schemes)} and a host")
    try:
        # As the resolver will: a label of 64 characters is an exception deep in a client otherwise.
        host.encode("idna")
    except UnicodeError:
        raise ValueError("the host is no name of a host, a part of it has at most 63 characters") from None
    return value


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)[:200]!r}")
    return path


def kind_of(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def report(error: ValidationError, spelling: Spelling) -> str:
    """All problems, one a line: the name as it was written, value (secrets masked), what was
    expected.
    """
    lines: dict[str, None] = {}
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        # By the names of the setting, for a wrong value has no form that could be recognised.
        is_secret = any(word in one.lower() for word in _SECRET_WORDS for one in spelling.names(name))
        shown_value = "" if not problem["loc"] else " = ***" if is_secret else f" = {problem['input']!r}"
        # One name may stand for two settings: a delay is a window and its longest wait.
        lines[f"{spelling.name_to_tell(name)}{shown_value}: {problem['msg'].removeprefix('Value error, ')}"] = None
    return "wrong settings:\n  " + "\n  ".join(lines)


class Spelling:
    """Under which name somebody has written a setting.

    `fields` holds the environment names of each field, `own` the names of a constructor's
    parameters by field, `present` the names that the environment and the file have.
    """

    def __init__(self, fields: Mapping[str, tuple[str, ...]], own: Mapping[str, str], present: Iterable[str]) -> None:
        self._own = own
        self._present = {name.upper() for name in present}
        self._fields = {one: (field, *names) for field, names in fields.items() for one in (field, *names)}

    def names(self, name: str) -> tuple[str, ...]:
        """All names of a setting."""
        return self._fields.get(name, (name,))

    def name_to_tell(self, name: str) -> str:
        """The name to tell: a parameter's, a field's, or the variable that is really set."""
        if name in self._own:
            return self._own[name]
        field, *variables = self.names(name)
        if name == field:
            return name
        return next((one for one in variables if one.upper() in self._present), name)


def variable_of(settings: type[BaseSettings], error: Exception) -> str:
    """The name of the variable whose value could not be parsed."""
    for name, field in settings.model_fields.items():
        if f'"{name}"' in str(error) and isinstance(field.validation_alias, AliasChoices):
            return str(field.validation_alias.choices[0])
    return str(error)


def names_of(alias: object) -> Iterator[str]:
    if isinstance(alias, AliasChoices):
        yield from (str(choice) for choice in alias.choices)
