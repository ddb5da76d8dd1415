"""What a process of `serve --processes` gets from its parent: a link to it, and the listening socket."""

from __future__ import annotations

import socket
from typing import Self

from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass

OPTION = "--inherit"


@dataclass(frozen=True, slots=True)
class Inheritance:
    link: socket.socket
    listener: socket.socket | None

    @classmethod
    def adopt(cls, numbers: str) -> Self:
        """The open files of these numbers, as `words` has written them. Raises `ConfigurationError`."""
        try:
            link, *listeners = [socket.socket(fileno=int(number)) for number in numbers.split(",")]
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{OPTION} is for processes that a supervisor has started") from error
        for one in (link, *listeners):
            one.set_inheritable(False)  # programs that tools start get neither
        return cls(link, listeners[0] if listeners else None)

    def words(self) -> list[str]:
        """For the command line of the child."""
        return [OPTION, ",".join(map(str, self.files))]

    @property
    def files(self) -> list[int]:
        return [one.fileno() for one in (self.link, self.listener) if one is not None]
