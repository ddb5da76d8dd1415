"""The file of settings: read like the environment, but the `.env` that lies in the working
directory is not believed as far, for it may have come with somebody else's project.

Its addresses get no key that came from elsewhere, and what lets a model or a program act on this
machine does not count from it. Whoever names the file (`--env-file`) vouches for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

DEFAULT = Path(".env")

RECEIVERS: Mapping[str, tuple[str, ...]] = {
    "openai_api_key": ("openai_base_url", "model_proxy", "model_ca_file"),
    "anthropic_api_key": ("anthropic_base_url", "model_proxy", "model_ca_file"),
    "openweather_api_key": ("openweather_url",),
    "webhook_secret": ("webhook_url",),
    "start_token": ("url",),
    # No setting of ours: the exporter reads it itself, and sends it wherever the endpoint points.
    "OTEL_EXPORTER_OTLP_HEADERS": ("otel_endpoint",),
}
"""Where each key is sent, or who may read it on its way."""

ACTS: tuple[str, ...] = ("tools_file", "tenant_tool_files", "allow_bash", "workspace", "sandbox")
"""What runs programs here, or opens files to a model."""


class Provenance:
    """Where settings come from: `names` are those in the environment for each field, `set_in_code`
    the fields set in code.
    """

    def __init__(
        self, names: Mapping[str, tuple[str, ...]], set_in_code: set[str], file: Path, environment: Mapping[str, str]
    ) -> None:
        self._names = names
        self._set_in_code = set_in_code
        self._environment = {name.upper() for name, value in environment.items() if value}
        self._file = {name.upper() for name, value in dotenv_values(file).items() if value} if file.is_file() else set()

    def foreign_receiver(self) -> tuple[str, str] | None:
        """An address of the file, and the key that it would get from elsewhere, as they are called;
        None if none.
        """
        for key, addresses in RECEIVERS.items():
            # The pair is refused, not the address dropped: whoever
            # wrote the file shall see that it does not count.
            for address in addresses:
                if self._is_of_file(address) and self._is_from_elsewhere(key):
                    return self._name_of(address), self._name_of(key)
        return None

    def acts(self) -> frozenset[str]:
        """What the file alone sets of `ACTS`."""
        return frozenset(field for field in ACTS if self._is_of_file(field))

    def _is_of_file(self, field: str) -> bool:
        """One of its names stands there and nowhere else: which of several names counts is not for
        us to guess.
        """
        alone = self._file - self._environment
        return field not in self._set_in_code and any(name in alone for name in self._names_of(field))

    def _is_from_elsewhere(self, field: str) -> bool:
        return field in self._set_in_code or any(name in self._environment for name in self._names_of(field))

    def _names_of(self, field: str) -> tuple[str, ...]:
        return self._names.get(field, (field,))

    def _name_of(self, field: str) -> str:
        return self._names_of(field)[0]
