"""Who somebody is, over HTTP: tickets for sockets, sessions for the dashboard."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from turnkeep.auth.api_keys import ApiKeys
from turnkeep.auth.guard import Guard
from turnkeep.auth.principals import COOKIE, SECURE_COOKIE, Principal, is_open, session_in
from turnkeep.auth.tickets import SESSION_LIFE, TICKET_LIFE, csrf_of
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall, audit
from turnkeep.errors import InvalidMessage, NotAuthenticated, NotFound, WrongState
from turnkeep.inputs import MAX_MOMENT, optional_number


async def issue_ticket(call: HttpCall) -> Response:
    value, until = await _guard(call).tickets.issue(call.principal)
    return JsonResponse({"ticket": value, "expires_at": until, "expires_in": TICKET_LIFE}, status_code=201)


async def begin_session(call: HttpCall) -> Response:
    """Only for whoever shows a key or token: a session does not beget another."""
    if "authorization" not in call.request.headers:
        raise NotAuthenticated("a session begins with an API key or a token, as 'Authorization: Bearer …'")
    value, principal = await _guard(call).tickets.begin(call.principal)
    await audit(call, "session_begun")
    response = JsonResponse(session_json(principal, csrf_of(value)), status_code=201)
    # Over plain HTTP a browser drops a secure cookie, and a dashboard on this machine had no
    # session.
    secure = call.request.url.scheme == "https"
    name = SECURE_COOKIE if secure else COOKIE
    response.set_cookie(
        name, value, max_age=int(SESSION_LIFE), path="/", httponly=True, samesite="strict", secure=secure
    )
    return response


async def show_session(call: HttpCall) -> Response:
    session = None if "authorization" in call.request.headers else session_in(call.request.cookies)
    return JsonResponse(session_json(call.principal, csrf_of(session) if session else None))


async def disconnect_user(call: HttpCall) -> Response:
    """Close what a user has open, in every process, and refuse what was issued to him before."""
    user, body = call.path("user"), await call.body(empty=True)
    if strangers := body.keys() - {"before"}:
        raise InvalidMessage(f"only 'before' can be given, not {', '.join(sorted(strangers))[:200]}")
    before = optional_number(body, "before", MAX_MOMENT)
    moment = await _guard(call).revocations.revoke(call.principal.tenant, user, before)
    await audit(call, "user_disconnected", user=user, before=f"{moment:.3f}")
    return JsonResponse({"user": user, "before": moment})


async def list_keys(call: HttpCall) -> Response:
    """The API keys of the tenant, without their digests."""
    keys = await ApiKeys(call.application.store).list()
    return JsonResponse({"keys": [key.to_json() for key in keys if key.tenant == call.principal.tenant]})


async def revoke_key(call: HttpCall) -> Response:
    keys, key_id = ApiKeys(call.application.store), call.path("key_id")
    if not any(key.key_id == key_id and key.tenant == call.principal.tenant for key in await keys.list()):
        raise NotFound("no such key")
    await keys.revoke(key_id)
    await audit(call, "key_revoked", key=key_id)
    return Response(status_code=204)


async def end_session(call: HttpCall) -> Response:
    session = session_in(call.request.cookies)
    if session and isinstance(call.access, Guard):
        await call.access.tickets.end(session)
    response = Response(status_code=204)
    # Both names: nobody knows whether the session was begun before or behind the TLS proxy.
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    response.delete_cookie(SECURE_COOKIE, path="/", httponly=True, samesite="strict", secure=True)
    return response


def session_json(principal: Principal, csrf: str | None) -> dict[str, Any]:
    return {
        "tenant": principal.tenant,
        "subject": principal.subject,
        "scopes": sorted(principal.scopes),
        "channels": None if principal.channels is None else list(principal.channels),
        "expires_at": principal.expires_at,
        "csrf": csrf,
    }


def _guard(call: HttpCall) -> Guard:
    if not isinstance(call.access, Guard) or is_open(call.access):
        raise WrongState("nobody is asked for a credential here, so there is nothing to exchange: just connect")
    return call.access
