"""The doors of a server: HTTP, WebSocket, AMQP."""

from importlib.util import find_spec

if find_spec("websockets") is None:
    raise ImportError("the doors need the parts of a server: pip install 'turnkeep[server]'")
