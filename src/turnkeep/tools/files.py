"""`read_file` and `write_file`: text files beneath the workspace, and nowhere else."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import Field

from turnkeep.errors import ToolFailed
from turnkeep.tools.tool import Tool, ToolContext, tool
from turnkeep.tools.workspaces import Workspaces

READ_CAP = 256 * 1024
WRITE_CAP = 1024 * 1024

Encoding = Literal["utf-8", "utf-16", "latin-1", "ascii", "base64"]
PathArgument = Annotated[str, Field(description="Relative to the workspace, such as 'notes/today.md'.")]
EncodingArgument = Annotated[Encoding | None, Field(description="utf-8 if null; base64 for files that are no text.")]


def file_tools(workspaces: Workspaces) -> list[Tool]:
    """The two tools, for the workspace of whoever calls."""

    # base64 makes four bytes of three
    @tool(effect="pure", timeout=10.0, output_cap=READ_CAP * 3 // 2)
    def read_file(path: PathArgument, context: ToolContext, encoding: EncodingArgument = None) -> str:
        """Read a file of the workspace, at most 256 kB."""
        return _decode(workspaces.of(context.tenant).read(path, READ_CAP), encoding or "utf-8", path)

    # whole files only, no appending: the same call again leaves the same file, so a retry may
    # repeat it
    @tool(effect="idempotent", timeout=10.0)
    def write_file(
        path: PathArgument,
        content: Annotated[str, Field(description="The whole new content.")],
        context: ToolContext,
        encoding: EncodingArgument = None,
    ) -> str:
        """Write a file of the workspace, replacing it whole. Missing directories are made."""
        data = _encode(content, encoding or "utf-8")
        if len(data) > WRITE_CAP:
            raise ToolFailed(f"the content has {len(data)} bytes, more than the {WRITE_CAP} that are written")
        is_replacement = workspaces.of(context.tenant).write(path, data)
        return f"{'replaced' if is_replacement else 'created'} {path}, {len(data)} bytes"

    return [read_file, write_file]


def _decode(data: bytes, encoding: Encoding, path: str) -> str:
    if encoding == "base64":
        return base64.b64encode(data).decode("ascii")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise ToolFailed(f"{path!r} is no {encoding} text; read it with another encoding, or as base64") from None


def _encode(content: str, encoding: Encoding) -> bytes:
    try:
        return base64.b64decode(content, validate=True) if encoding == "base64" else content.encode(encoding)
    except (UnicodeEncodeError, binascii.Error):
        raise ToolFailed(f"the content cannot be written as {encoding}") from None
