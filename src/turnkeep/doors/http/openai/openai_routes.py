"""The routes of OpenAI's doors. Their bodies and answers are OpenAI's, and described there.

A request that names its channel in the body has no scope here: whoever sends it needs `send` and
`read` on that channel, which its reader looks at.
"""

from __future__ import annotations

from collections.abc import Mapping

from turnkeep.auth.principals import Scope
from turnkeep.doors.http.endpoint import Handler, HttpEndpoint
from turnkeep.doors.http.openai import (
    assistant_profiles,
    chat_completions,
    conversation_endpoints,
    model_listing,
    response_endpoints,
    run_endpoints,
    thread_endpoints,
)
from turnkeep.doors.http.openai.cursor_list import LIST_QUERY
from turnkeep.doors.http.openai.openai_errors import openai_error

RESPONSE = "/v1/responses/{response_id}"
PROFILE = "/v1/assistants/{assistant_id}"
CONVERSATION = "/v1/conversations/{conversation_id}"
CONVERSATION_ITEM = CONVERSATION + "/items/{item_id}"
THREAD_PATH = "/v1/threads/{thread_id}"
THREAD_MESSAGE_PATH = THREAD_PATH + "/messages/{message_id}"
RUN_PATH = THREAD_PATH + "/runs/{run_id}"


def _endpoint(
    method: str, path: str, handler: Handler, scope: Scope | None, summary: str, *,
    query: Mapping[str, str] | None = None, is_metered: bool = True,
) -> HttpEndpoint:  # fmt: skip
    body = "ForeignBody" if method == "POST" else None
    return HttpEndpoint(
        method, path, handler, scope, summary, {200: "ForeignAnswer"}, body=body, body_may_be_empty=True,
        query=query or {}, is_metered=is_metered, refuse=openai_error, refusal="OpenAIError",
    )  # fmt: skip


MODEL_ENDPOINTS = (
    _endpoint("GET", "/v1/models", model_listing.list_models, "read", "Assistants, as models."),
    _endpoint("GET", "/v1/models/{model}", model_listing.show_model, "read", "An assistant, as a model."),
)
ANSWER_ENDPOINTS = (
    _endpoint("POST", "/v1/chat/completions", chat_completions.complete_chat, None,
              "Answer a conversation that is resent, or a question that stands for itself.", is_metered=False),
    _endpoint("POST", "/v1/responses", response_endpoints.create_response, None,
              "Answer what is new in a conversation; `background` at once, to be read later.", is_metered=False),
    _endpoint("GET", RESPONSE, response_endpoints.show_response, None, "An answer, as it is now or as it grows.",
              query={"stream": "`true`: as server-sent events.",
                     "starting_after": "The `sequence_number` of the last event that was seen."}),
    _endpoint("GET", RESPONSE + "/input_items", conversation_endpoints.list_input_items, None,
              "What the turn of an answer was asked.", query=LIST_QUERY),
    _endpoint("POST", RESPONSE + "/cancel", response_endpoints.cancel_response, None,
              "Stop an answer; what was said stays."),
)  # fmt: skip


CONVERSATION_ENDPOINTS = (
    _endpoint("POST", "/v1/conversations", conversation_endpoints.begin_conversation, "send",
              "Make a conversation, with items."),
    _endpoint("GET", CONVERSATION, conversation_endpoints.show_conversation, None, "A conversation."),
    _endpoint("POST", CONVERSATION, conversation_endpoints.change_conversation, None,
              "Change the metadata of a conversation."),
    _endpoint("DELETE", CONVERSATION, conversation_endpoints.delete_conversation, None,
              "Forget a conversation and everything in it."),
    _endpoint("POST", CONVERSATION + "/items", conversation_endpoints.add_conversation_items, None,
              "Write items, which nobody answers.", is_metered=False),
    _endpoint("GET", CONVERSATION + "/items", conversation_endpoints.list_conversation_items, None, "What was said.",
              query=LIST_QUERY),
    _endpoint("GET", CONVERSATION_ITEM, conversation_endpoints.show_conversation_item, None, "An item."),
    _endpoint("DELETE", CONVERSATION_ITEM, conversation_endpoints.delete_conversation_item, None,
              "Take back a message that waits."),
)  # fmt: skip
PROFILE_ENDPOINTS = (
    _endpoint("POST", "/v1/assistants", assistant_profiles.create_profile, "admin",
              "Make an assistant; its functions are run by the caller."),
    _endpoint("GET", "/v1/assistants", assistant_profiles.list_profiles, "read", "Assistants.", query=LIST_QUERY),
    _endpoint("GET", PROFILE, assistant_profiles.show_profile, "read", "An assistant."),
    _endpoint("POST", PROFILE, assistant_profiles.change_profile, "admin", "Change an assistant."),
    _endpoint("DELETE", PROFILE, assistant_profiles.delete_profile, "admin", "Delete an assistant."),
)  # fmt: skip
THREAD_ENDPOINTS = (
    _endpoint("POST", "/v1/threads", thread_endpoints.begin_thread, "send", "Make a thread, with messages."),
    # Before threads by their id: the word would be taken for one.
    _endpoint("POST", "/v1/threads/runs", run_endpoints.begin_thread_and_run, "send",
              "Make a thread and answer it.", is_metered=False),
    _endpoint("GET", THREAD_PATH, thread_endpoints.show_thread_form, None, "A thread."),
    _endpoint("POST", THREAD_PATH, thread_endpoints.change_thread, None, "Change the metadata of a thread."),
    _endpoint("DELETE", THREAD_PATH, thread_endpoints.delete_thread, None, "Forget a thread and everything in it."),
    _endpoint("POST", THREAD_PATH + "/messages", thread_endpoints.add_message, None,
              "Write a message, which waits for a run.", is_metered=False),
    _endpoint("GET", THREAD_PATH + "/messages", thread_endpoints.list_thread_messages, None, "What was said.",
              query={**LIST_QUERY, "run_id": "Of the turn of this run alone."}),
    _endpoint("GET", THREAD_MESSAGE_PATH, thread_endpoints.show_thread_message, None, "A message."),
    _endpoint("POST", THREAD_MESSAGE_PATH, thread_endpoints.refuse_message_change, None, "Not offered."),
    _endpoint("DELETE", THREAD_MESSAGE_PATH, thread_endpoints.refuse_message_deletion, None, "Not offered."),
)  # fmt: skip
RUN_ENDPOINTS = (
    _endpoint("POST", THREAD_PATH + "/runs", run_endpoints.begin_run, None, "Answer what was said.", is_metered=False),
    _endpoint("GET", THREAD_PATH + "/runs", run_endpoints.list_thread_runs, None, "Runs that were asked for here.",
              query=LIST_QUERY),
    _endpoint("GET", RUN_PATH, run_endpoints.show_run, None, "A run, as it is now."),
    _endpoint("POST", RUN_PATH, run_endpoints.refuse_run_change, None, "Not offered."),
    _endpoint("POST", RUN_PATH + "/submit_tool_outputs", run_endpoints.submit_outputs, None,
              "Give what the caller's functions gave."),
    _endpoint("POST", RUN_PATH + "/cancel", run_endpoints.cancel_run, None, "Stop a run; what was said stays."),
    _endpoint("GET", RUN_PATH + "/steps", run_endpoints.list_run_steps, None, "What was done in a run.",
              query=LIST_QUERY),
    _endpoint("GET", RUN_PATH + "/steps/{step_id}", run_endpoints.show_run_step, None, "A step of a run."),
)  # fmt: skip

OPENAI_ENDPOINTS = (
    *MODEL_ENDPOINTS, *ANSWER_ENDPOINTS, *CONVERSATION_ENDPOINTS, *PROFILE_ENDPOINTS, *THREAD_ENDPOINTS, *RUN_ENDPOINTS,
)  # fmt: skip
