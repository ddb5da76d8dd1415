"""A small MCP server over standard input and output, or over HTTP with a port as argument."""

import os
import sys
from typing import Annotated

from mcp.server.mcpserver import MCPServer

server = MCPServer("sample")


@server.tool()
def add(a: int, b: Annotated[int, "the other one"]) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no luck")


@server.tool()
def leave() -> str:
    """Ends the server in the middle of a call."""
    os._exit(3)


@server.tool()
def who() -> str:
    """Which process this is, and what it was given."""
    return f"{os.getpid()} {os.environ.get('SAMPLE_TOKEN', '')} {'TURNKEEP_SECRET' in os.environ}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
