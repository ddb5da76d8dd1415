"""All rows of a statement, with the types that the tables promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw


def every(
    connection: apsw.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = connection.execute(statement, values).fetchall()
    return found


def one(connection: apsw.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[Any, ...]:
    """The first row, which has to be there."""
    return every(connection, statement, values)[0]
