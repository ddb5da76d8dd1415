"""A docstring cut into what a function is for and what each of its parameters is.

Reads ``Args:`` sections (``name: text`` or ``name (type): text``) and ``:param name: text`` lines.
What a function returns or raises is left out: the model does not need it.
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"\*{0,2}(\w+)(?: ?\([^)]*\))?:\s*(.*)$")
_FIELD = re.compile(r":(\w+)\s*(?:[^:]*?\s)?(\w*):\s*(.*)$")


def parse_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """The prose, and the words about each parameter in one line."""
    reader = _Reader()
    for line in docstring.splitlines():
        reader.read(line)
    prose = "\n".join(reader.prose).strip()
    return prose, {name: " ".join(" ".join(words).split()) for name, words in reader.words_of_parameter.items()}


class _Reader:
    """Goes through a docstring line by line; `section` says what the line belongs to."""

    def __init__(self) -> None:
        self.prose: list[str] = []
        self.words_of_parameter: dict[str, list[str]] = {}
        self.section = "prose"
        self.indent: int | None = None
        self.words: list[str] = []

    def read(self, line: str) -> None:
        text = line.strip()
        if header := _HEADER.match(line):
            self.section = "parameters" if header[1] in ("Args", "Arguments", "Parameters") else "rest"
            self.indent = None
        elif field := _FIELD.match(line):
            self.section, self.words = "field", [field[3]]
            if field[1] in ("param", "parameter", "arg"):
                self.words_of_parameter[field[2]] = self.words
        elif text and not line[0].isspace():
            self.section = "prose"
            self.prose.append(line)
        else:
            self._read_indented(line, text)

    def _read_indented(self, line: str, text: str) -> None:
        if self.section == "prose":
            self.prose.append(line)
        elif self.section == "field":
            self.words.append(text)
        elif self.section == "parameters" and text:
            self._read_parameter(text, len(line) - len(text))

    def _read_parameter(self, text: str, indent: int) -> None:
        self.indent = indent if self.indent is None else self.indent
        entry = _ENTRY.match(text)
        if entry and indent <= self.indent:
            self.words = self.words_of_parameter[entry[1]] = [entry[2]]
        else:
            self.words.append(text)
