"""The one table of all routes of `/api` and of other dialects: it makes them, says who may call
them, and is the OpenAPI document.
"""

from __future__ import annotations

from turnkeep.doors.http import agui, channels, identity, measurements, overview, tenancy, vercel
from turnkeep.doors.http.endpoint import HttpEndpoint
from turnkeep.doors.http.event_stream import stream_events
from turnkeep.doors.http.openai.openai_routes import OPENAI_ENDPOINTS
from turnkeep.doors.http.openapi import show_openapi

CHANNEL_PATH = "/api/channels/{channel}"
MESSAGE_PATH = CHANNEL_PATH + "/messages/{message_id}"
DEAD_PATH = "/api/dead/{dead_id}"
ASSISTANT_PATH = "/api/assistants/{assistant_id}"

EVENT_QUERY = {
    "after": "Position to go on from, as in the id of an event; the header Last-Event-ID goes before it.",
    "text": "`delta`: every token by itself.",
    "events": "`all`: the whole life of messages.",
}
LIMIT = {"limit": "At most so many."}
BEFORE = {"before": "Only turns before this one, as `turn` of the oldest item seen."}
THREAD_QUERY = {
    **LIMIT,
    "after": "The `next` of the answer before.",
    "state": "`idle`, `waiting`, `leased`, `retry`, `held` or `paused`.",
    "q": "Text in the channel, the thread id or the metadata.",
}

METRICS_ENDPOINT = HttpEndpoint(
    "GET", "/metrics", measurements.show_metrics, "admin",
    "Measurements of this process and of the queues in its store, for Prometheus.", {200: None}, media="text/plain",
)  # fmt: skip
"""A worker shows it too."""

CHANNEL_ENDPOINTS = (
    HttpEndpoint("GET", CHANNEL_PATH + "/events", stream_events, "read", "Stream what happens, as server-sent events.",
             {200: None}, query=EVENT_QUERY, media="text/event-stream"),
    HttpEndpoint("POST", CHANNEL_PATH + "/messages", channels.send, "send",
             "Take a message in durably. 200 is the original receipt of a repeated one.",
             {202: "Receipt", 200: "Receipt"}, body="NewMessage", is_metered=False),
    HttpEndpoint("GET", CHANNEL_PATH + "/messages", channels.list_messages, "read",
             "The transcript, what waits and why, and what has died.", {200: "Transcript"}, query={**LIMIT, **BEFORE}),
    HttpEndpoint("POST", CHANNEL_PATH + "/answers", channels.answer, "manage",
             "Let a person answer in the assistant's place: the messages that wait are answered by it, as one turn.",
             {201: "Answer"}, body="NewAnswer"),
    HttpEndpoint("POST", CHANNEL_PATH + "/dead/{dead_id}/redrive", channels.redrive_dead, "send",
             "Try a message again that has died: one's own, or any with the scope manage.", {202: "Receipt"}),
    HttpEndpoint("DELETE", CHANNEL_PATH + "/dead/{dead_id}", channels.discard_dead, "send",
             "Forget a message that has died: one's own, or any with the scope manage.", {204: None}),
    HttpEndpoint("GET", MESSAGE_PATH, channels.show_message, "read", "What became of a message.", {200: "Message"}),
    HttpEndpoint("PATCH", MESSAGE_PATH, channels.edit_message, "send",
             "Change a message until a run has begun to answer it.", {200: "Message"}, body="Edit"),
    HttpEndpoint("DELETE", MESSAGE_PATH, channels.withdraw_message, "send",
             "Withdraw a message until a run has begun to answer it.", {200: "Message"}),
    HttpEndpoint("POST", CHANNEL_PATH + "/cancel", channels.cancel, "send",
             "Stop the run in progress; what was shown stays.",
             {200: "Cancelled"}, body="Cancel", body_may_be_empty=True),
    HttpEndpoint("POST", CHANNEL_PATH + "/flush", channels.flush, "send", "Answer what waits now.", {200: "Flushed"}),
    HttpEndpoint("POST", CHANNEL_PATH + "/pause", channels.pause, "send", "Let nobody answer until resumed.",
             {200: "Paused"}),
    HttpEndpoint("POST", CHANNEL_PATH + "/resume", channels.resume, "send", "Answer again.", {200: "Paused"}),
    HttpEndpoint("POST", CHANNEL_PATH + "/regenerate", channels.regenerate, "send",
             "Answer the last turn again, in place of the old answer.", {202: "Receipts"}),
    HttpEndpoint("POST", CHANNEL_PATH + "/actions/{call_id}", channels.act, "approve",
             "Decide about a call that waits.", {200: "HeldCall"}, body="Decision"),
    HttpEndpoint("GET", CHANNEL_PATH + "/runs", channels.list_runs, "read", "The last runs.", {200: "Runs"}),
    HttpEndpoint("GET", CHANNEL_PATH + "/runs/{run_id}", channels.show_run_life, "read",
             "A run, and what happened in it as long as the log holds it.", {200: "RunLife"}),
    HttpEndpoint("GET", CHANNEL_PATH, channels.show_channel, "read", "The thread behind a channel.", {200: "Thread"}),
    HttpEndpoint("PATCH", CHANNEL_PATH, channels.change_channel, "send",
             "Change metadata, or with the scope manage who answers and how long it waits. 204 for who may not read.",
             {200: "Thread", 204: None}, body="ThreadChange"),
    HttpEndpoint("DELETE", CHANNEL_PATH, channels.forget_channel, "manage", "Forget a thread and everything in it.",
             {204: None}, query={"force": "`true`: also while it is not idle."}),
)  # fmt: skip

TENANT_ENDPOINTS = (
    HttpEndpoint("GET", "/api/queue", overview.show_queue, "read", "How much waits.", {200: "Queue"}),
    HttpEndpoint("GET", "/api/workers", overview.list_workers, "admin", "The processes that run with this store.",
             {200: "Processes"}),
    HttpEndpoint("GET", "/api/activity", overview.show_activity, "admin", "What runs did, in small steps of time.",
             {200: "Activity"}, query={"span": "`hour` by minutes, or `month` by hours."}),
    HttpEndpoint("GET", "/api/usage", overview.show_usage, "admin",
             "What was used, by day, model and assistant, and what is left of the budgets.",
             {200: "UsageByDay"}, query={"days": "At most so many days back."}),
    HttpEndpoint("GET", "/api/runs", overview.list_recent_runs, "admin", "The runs of all threads, newest first.",
             {200: "RecentRuns"},
             query={**LIMIT, "after": "The `next` of the answer before.",
                    "status": "Only these, separated by commas.", "q": "As for threads."}),
    HttpEndpoint("GET", "/api/search", tenancy.search, "admin", "What was said of a text, newest first.",
             {200: "Passages"}, query={**LIMIT, "q": "The text, of 2 to 200 characters."}),
    HttpEndpoint("GET", "/api/sinks", overview.list_sinks, "admin", "What waits for receivers outside.",
             {200: "Sinks"}),
    HttpEndpoint("GET", "/api/overview/events", overview.stream_overview, "admin",
             "Counts, circuits, processes and the last hour, whenever they change.", {200: None},
             media="text/event-stream"),
    HttpEndpoint("GET", "/api/dead", tenancy.list_dead, "admin", "Dead letters, by id.", {200: "DeadLetters"},
             query={**LIMIT, "after": "The id of the last one seen."}),
    HttpEndpoint("GET", DEAD_PATH, tenancy.show_dead, "admin", "A dead letter.", {200: "DeadLetter"}),
    HttpEndpoint("POST", DEAD_PATH + "/redrive", tenancy.redrive, "admin", "Take it in again, at the end of its inbox.",
             {202: "Receipt"}),
    HttpEndpoint("DELETE", DEAD_PATH, tenancy.discard, "admin", "Forget a dead letter.", {204: None}),
    HttpEndpoint("GET", "/api/assistants", tenancy.list_assistants, "read", "Who may answer.", {200: "Assistants"}),
    HttpEndpoint("POST", "/api/assistants", tenancy.create_assistant, "admin", "Make an assistant.", {201: "Assistant"},
             body="AssistantFields", body_may_be_empty=True),
    HttpEndpoint("GET", ASSISTANT_PATH, tenancy.show_assistant, "read", "An assistant.", {200: "Assistant"}),
    HttpEndpoint("PATCH", ASSISTANT_PATH, tenancy.change_assistant, "admin", "Change an assistant.", {200: "Assistant"},
             body="AssistantChange"),
    HttpEndpoint("DELETE", ASSISTANT_PATH, tenancy.delete_assistant, "admin", "Delete an assistant.", {204: None}),
    HttpEndpoint("POST", ASSISTANT_PATH + "/use", tenancy.use_assistant, "admin",
             "Let it answer where no other is chosen.", {200: "Assistant"}),
    HttpEndpoint("GET", "/api/threads", tenancy.list_threads, "admin",
             "Threads by their last activity, newest first.", {200: "Threads"}, query=THREAD_QUERY),
    METRICS_ENDPOINT,
    HttpEndpoint("POST", "/api/threads", tenancy.create_thread, "send", "Make an empty thread.", {201: "Thread"},
             body="NewThread", body_may_be_empty=True),
)  # fmt: skip

IDENTITY_ENDPOINTS = (
    HttpEndpoint("POST", "/api/tickets", identity.issue_ticket, None, "A ticket that opens one socket within 30 s.",
             {201: "Ticket"}),
    HttpEndpoint("POST", "/api/session", identity.begin_session, None,
             "Begin a session of the dashboard for the key that is shown: a cookie, and the CSRF token to go with it.",
             {201: "Session"}),
    HttpEndpoint("GET", "/api/session", identity.show_session, None, "Who the credential is.", {200: "Session"}),
    HttpEndpoint("DELETE", "/api/session", identity.end_session, None, "End the session.", {204: None}),
    HttpEndpoint("GET", "/api/keys", identity.list_keys, "admin", "The API keys of the tenant.", {200: "Keys"}),
    HttpEndpoint("DELETE", "/api/keys/{key_id}", identity.revoke_key, "admin", "Refuse a key from now on.",
             {204: None}),
    HttpEndpoint("POST", "/api/users/{user}/disconnect", identity.disconnect_user, "admin",
             "Close what a user has open, everywhere, and refuse what was issued to him before a moment (now).",
             {200: "Disconnected"}, body="Disconnect", body_may_be_empty=True),
    HttpEndpoint("GET", "/api/openapi.json", show_openapi, None, "This document.", {200: "OpenApi"}, public=True),
)  # fmt: skip

CHAT = "/api/chat/{channel}"
LEVEL = {"level": "Major version of the `ai` package: 5 (default), 6 or 7."}
CHAT_STREAM = {**LEVEL, "text": "`live` (default), or `steps`: each step of an answer once it has ended."}

VERCEL_ENDPOINTS = (
    HttpEndpoint("POST", "/api/chat", vercel.chat, None,
             "Take in what is new of a chat of Vercel's AI SDK, and stream the answer.", {200: None}, body="Chat",
             query=CHAT_STREAM, media="text/event-stream", is_metered=False, refuse=vercel.sentence_response,
             refusal=None),
    HttpEndpoint("GET", CHAT + "/stream", vercel.resume_chat, "read", "Go on with the answer in progress.",
             {200: None, 204: None}, query=CHAT_STREAM, media="text/event-stream",
             refuse=vercel.sentence_response, refusal=None),
    HttpEndpoint("POST", CHAT + "/stop", vercel.stop_chat, "send", "Stop the answer in progress.", {200: "Cancelled"},
             refuse=vercel.sentence_response, refusal=None),
    HttpEndpoint("GET", CHAT, vercel.show_chat, "read", "The messages that a page begins with.", {200: "UiMessages"},
             query={**LIMIT, **LEVEL}, refuse=vercel.sentence_response, refusal=None),
)  # fmt: skip

AGUI_ENDPOINTS = (
    HttpEndpoint("POST", "/api/agui", agui.run_agent, None,
             "Take in what is new of a conversation of AG-UI, and stream the answer.", {200: None},
             body="RunAgentInput", media="text/event-stream", is_metered=False),
    HttpEndpoint("GET", "/api/agui", agui.join_agent, None,
             "A run from its beginning, or with `threadId` the conversation that a page begins with.",
             {200: "Conversation"}, query={"runId": "The run.", "threadId": "The conversation."}),
)  # fmt: skip

ENDPOINTS = (
    *CHANNEL_ENDPOINTS,
    *TENANT_ENDPOINTS,
    *IDENTITY_ENDPOINTS,
    *OPENAI_ENDPOINTS,
    *VERCEL_ENDPOINTS,
    *AGUI_ENDPOINTS,
)
