"""The bodies of requests over HTTP, one model for each: the JSON schemas of OpenAPI are made from these
(`schemas`, with those of answers), and `inputs` is held to them.

The readers in `inputs` stay beside the models, because every door reads by them and their sentences
are promised; those of pydantic name its own types. So that the two cannot drift, a test gives both
each limit of each field, and one step beyond, and they must say the same. Limits have their names
in `inputs` and stand nowhere else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from turnkeep.assistant_input import MAX_ASSISTANT_INSTRUCTIONS
from turnkeep.auth.acts import MAX_DIGEST, DecisionVerdict
from turnkeep.inputs import (
    MAX_ENTRIES,
    MAX_INSTRUCTIONS,
    MAX_METADATA,
    MAX_METADATA_NAME,
    MAX_METADATA_TEXT,
    MAX_MODEL,
    MAX_MOMENT,
    MAX_NAME,
    MAX_NAMES,
    MAX_PARTS,
    MAX_WAIT,
    MAX_WINDOW,
    Effort,
    FormatKind,
)
from turnkeep.messages import BusyPolicy
from turnkeep.thread_options import Preset

JsonSchema = dict[str, Any]

Text = Annotated[str, Field(min_length=1)]
ShortName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL)]
Window = Annotated[float, Field(ge=0, le=MAX_WINDOW)]
MaxWait = Annotated[float, Field(ge=0, le=MAX_WAIT)]
UnixTime = Annotated[float, Field(ge=0, le=MAX_MOMENT)]
MetadataName = Annotated[str, Field(max_length=MAX_METADATA_NAME)]
MetadataText = Annotated[str, Field(max_length=MAX_METADATA_TEXT)]
MessageMetadata = Annotated[dict[MetadataName, MetadataText], Field(max_length=MAX_METADATA)]
MetadataChange = Annotated[dict[MetadataName, MetadataText | None], Field(max_length=MAX_METADATA)]
Entries = Annotated[dict[str, Any], Field(max_length=MAX_ENTRIES)]


class Body(BaseModel):
    """What is not named may come along: fields of the socket's frame are sent over HTTP as well."""

    model_config = ConfigDict(extra="allow", strict=True)


class StrictBody(BaseModel):
    """What is not named is refused: a misspelt setting, taken in silence, would be missed much
    later.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class MessagePart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text", "image", "file"]


MessageContent = str | Annotated[list[MessagePart], Field(min_length=1, max_length=MAX_PARTS)]


class AnswerFormat(BaseModel):
    model_config = ConfigDict(strict=True)

    type: FormatKind


class ProviderTool(BaseModel):
    model_config = ConfigDict(strict=True, json_schema_extra={"maxProperties": MAX_ENTRIES})

    type: Text


class NewMessage(Body):
    message: Text = Field(default="", description="The text; or give `content`.")
    content: MessageContent = ""
    message_id: ShortName | None = None
    instructions: Annotated[str, Field(min_length=1, max_length=MAX_INSTRUCTIONS)] | None = None
    model: ModelName | None = None
    effort: Effort | None = None
    format: AnswerFormat | None = None
    parameters: Entries | None = None
    metadata: MessageMetadata | None = None
    on_busy: BusyPolicy | None = None
    window: Window | None = None
    max_wait: MaxWait | None = None
    not_before: UnixTime | None = None
    flush: bool = False


class Edit(Body):
    message: Text = ""
    content: MessageContent = ""


class NewAnswer(StrictBody):
    message: Text
    author: ShortName | None = None


class Disconnect(StrictBody):
    before: UnixTime | None = None


class Cancel(Body):
    inbox: Literal["keep", "drop"] = "keep"


class DecisionBody(Body):
    decision: DecisionVerdict
    output: str = ""
    digest: Annotated[str, Field(min_length=1, max_length=MAX_DIGEST)]


class NewThreadOptions(StrictBody):
    window: Window | None = None
    max_wait: MaxWait | None = None
    on_busy: BusyPolicy | None = None
    preset: Preset | None = None


class ThreadChange(StrictBody):
    metadata: MetadataChange = {}
    assistant: ModelName | None = None
    options: NewThreadOptions | None = None


class NewThread(Body):
    metadata: MetadataChange = {}


class AssistantFields(StrictBody):
    model: ModelName = ""
    name: ModelName = ""
    instructions: Annotated[str, Field(min_length=1, max_length=MAX_ASSISTANT_INSTRUCTIONS)] = ""
    tools: Annotated[list[ModelName | ProviderTool], Field(max_length=MAX_NAMES)] | None = None
    fallbacks: Annotated[list[ModelName], Field(max_length=MAX_NAMES)] = []
    parameters: Entries = {}
    background: bool = False
    show_reasoning: bool = False
    metadata: Annotated[dict[str, str], Field(max_length=MAX_ENTRIES)] = {}


class AssistantChange(AssistantFields):
    version: int = 0


BODIES: dict[str, type[BaseModel]] = {
    "NewMessage": NewMessage,
    "Edit": Edit,
    "NewAnswer": NewAnswer,
    "Disconnect": Disconnect,
    "Cancel": Cancel,
    "Decision": DecisionBody,
    "ThreadChange": ThreadChange,
    "NewThreadOptions": NewThreadOptions,
    "NewThread": NewThread,
    "AssistantFields": AssistantFields,
    "AssistantChange": AssistantChange,
    "Part": MessagePart,
}
"""By the names that clients generate their types from: they stay, whatever a class is called here."""

_NAMES = {model.__name__: name for name, model in BODIES.items()}


def schema_of(model: type[BaseModel]) -> JsonSchema:
    """Its JSON schema, without what only Python has: titles, defaults, our own words about a class."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    plain: JsonSchema = _plain(schema, definitions)
    plain.pop("description", None)
    if "additionalProperties" in plain:
        plain.setdefault("required", [])
    return plain


def _plain(schema: Any, definitions: JsonSchema) -> Any:
    if isinstance(schema, list):
        return [_plain(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        # A class that clients have no name for is written out: a name is a promise as well.
        if name not in _NAMES:
            return _plain(definitions[name], definitions)
        return {"$ref": f"#/components/schemas/{_NAMES[name]}"}
    if "properties" in schema:
        schema = schema | {"properties": {k: _plain(v, definitions) for k, v in schema["properties"].items()}}
    rest = {k: v for k, v in schema.items() if k not in ("title", "default")}
    return {k: v if k == "properties" else _plain(v, definitions) for k, v in rest.items()}
