"""What a network that fails means for a request to a provider: each failure as a `ModelError`, in a sentence
that holds no secret.
"""

from __future__ import annotations

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from turnkeep.errors import (
    AnswerMalformed,
    EndpointBlocked,
    ModelError,
    ModelTimedOut,
    ModelUnavailable,
    ModelUnreachable,
)
from turnkeep.models.classify import scrub
from turnkeep.models.provider import Provider

NETWORK_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)


def no_answer(endpoint: Provider) -> ModelTimedOut:
    return ModelTimedOut(f"no answer from {endpoint.host} within {endpoint.first_event_timeout:g} s")


def silence(endpoint: Provider, limit: float) -> ModelTimedOut:
    return ModelTimedOut(f"{endpoint.host} fell silent for {limit:g} s in the middle of an answer")


def connection_error(endpoint: Provider, error: Exception) -> ModelError:
    # The texts of network errors hold whole addresses, with what people put into their queries.
    why = scrub(f"{type(error).__name__}: {error}", endpoint.secrets)[:300]
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ModelUnavailable(f"the certificate of {endpoint.host} is not trusted; set its CA file ({why})")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        kind = EndpointBlocked if error.status in (401, 403, 407) else ModelUnavailable
        return kind(f"the proxy to {endpoint.host} answered {error.status}")
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return AnswerMalformed(f"{endpoint.host} does not speak HTTP ({why})")
    if isinstance(error, aiohttp.ClientConnectorError):
        return ModelUnreachable(f"no connection to {endpoint.host} ({why})")
    return ModelUnavailable(f"lost the connection to {endpoint.host} ({why})")
