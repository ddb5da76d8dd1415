"""Times that were written in milliseconds: refused in the words that somebody has typed.

All times are seconds here, as everywhere in Python. Who brings a program from TypeScript brings
`10000` for ten seconds along, and would wait for hours without a word.
"""

from __future__ import annotations

from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class SecondsLimit:
    """A time beyond which milliseconds were meant. `otherwise`: how to say so long a
    time all the same.
    """

    most: float
    otherwise: str = ""
    longest: float = float("inf")
    """What `otherwise` takes at most."""

    def check(self, name: str, value: object) -> None:
        """Raises `ConfigurationError`."""
        # A text or a True is refused by whoever reads it, with the type that it wants.
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.most < value < float("inf"):
            return
        otherwise = (
            f"; for {_duration(value)} write {self.otherwise}={value:g}"
            if self.otherwise and value <= self.longest
            else ""
        )
        raise ConfigurationError(
            f"{name}={value:g} is {_duration(value)}: times are seconds here, not milliseconds; "
            f"write {name}={value / 1000:g}{otherwise}"
        )


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} seconds"
