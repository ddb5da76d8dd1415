"""Where answers come from: OpenAI, Anthropic and every server that speaks one
of their three protocols.
"""

from __future__ import annotations

from typing import Literal

from turnkeep.models.capabilities import Protocol, protocol_of
from turnkeep.models.model import Model
from turnkeep.models.provider import Provider

__all__ = ["Model", "ModelApi", "ModelPool", "Provider", "load_clients", "open_model"]

ModelApi = Literal["auto", "responses", "chat", "anthropic"]


def open_model(endpoint: Provider, kind: ModelApi = "auto") -> Model:
    """A model at this endpoint; ``auto`` takes Responses for OpenAI, Azure and the simulator,
    Messages for Anthropic and for addresses that end in ``/anthropic`` or ``/anthropic/v1``, else
    Chat Completions.

    Nothing is sent before the first request. Raises ConfigurationError for a capability that does
    not exist.
    """
    protocol: Protocol = protocol_of(endpoint) if kind == "auto" else kind
    # With aiohttp behind each of them: what asks no model, such as a gateway, starts without it.
    if protocol == "anthropic":
        from turnkeep.models.anthropic import AnthropicModel

        return AnthropicModel(endpoint)
    if protocol == "responses":
        from turnkeep.models.responses import ResponsesModel

        return ResponsesModel(endpoint)
    from turnkeep.models.chat import ChatModel

    return ChatModel(endpoint)


def load_clients() -> None:
    """Import what asks models (0.1 s) instead of at the first request."""
    from turnkeep.models import exchange  # noqa: F401 - importing it is all that is wanted


class ModelPool:
    """One model, with its open connections, for each endpoint and protocol that is asked for."""

    def __init__(self) -> None:
        self._models: dict[tuple[Provider, ModelApi], Model] = {}

    def get(self, endpoint: Provider, kind: ModelApi = "auto") -> Model:
        """The model of this endpoint, the same one each time. The pool closes it."""
        key = (endpoint, kind)
        if key not in self._models:
            self._models[key] = open_model(endpoint, kind)
        return self._models[key]

    async def close(self) -> None:
        """Close all models; the pool is empty afterwards and may be used again."""
        models, self._models = list(self._models.values()), {}
        for model in models:
            await model.close()
