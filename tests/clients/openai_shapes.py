#!/usr/bin/env python3
"""Validates raw answers and stream chunks against the shapes that OpenAI publishes.

The official Python client's models are generated from OpenAI's OpenAPI document. Here they are
applied strictly: no conversions, nothing required left out. What the models leave open is in the two
tables below: keys that the document requires although they may be null, and keys that it wants
omitted rather than null. Keys that it does not know are allowed, and listed at the end.
"""

import json
import time

import httpx
import pydantic
from openai.types import (
    Batch,
    Completion,
    CreateEmbeddingResponse,
    ErrorObject,
    FileDeleted,
    FileObject,
    Model,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
import openai

from checks import WEATHER, arguments, check, run

MESSAGES = [{"role": "user", "content": "Say hello."}]
TOOLS = [{"type": "function", "function": WEATHER}]
VERDICT = {
    "type": "object",
    "properties": {"grade": {"type": "string", "enum": ["a", "b"]}},
    "required": ["grade"],
    "additionalProperties": False,
}

# Paths of keys that must be there; `*` is every entry of a list.
REQUIRED = {
    ChatCompletion: ["choices.*.logprobs", "choices.*.message.content", "choices.*.message.refusal"],
    ChatCompletionChunk: ["choices.*.finish_reason"],
    Completion: ["choices.*.logprobs", "choices.*.finish_reason"],
    ErrorObject: ["param", "code"],
    Response: ["error", "incomplete_details", "instructions", "metadata", "temperature", "top_p"],
}
# Paths of keys that are not there rather than null.
OMITTED = {
    ChatCompletion: [
        "usage", "system_fingerprint", "choices.*.message.tool_calls", "choices.*.message.function_call",
        "choices.*.message.annotations", "usage.prompt_tokens_details", "usage.completion_tokens_details",
    ],
    ChatCompletionChunk: [
        "system_fingerprint", "choices.*.delta.tool_calls", "choices.*.delta.function_call", "choices.*.delta.role",
    ],
    Completion: ["system_fingerprint"],
}


class Context:
    def __init__(self, parsed):
        headers = {"authorization": f"Bearer {parsed.key}"}
        self.http = httpx.Client(base_url=parsed.base_url, headers=headers, timeout=120)
        self.model = parsed.model
        self.extras = set()

    def get(self, path, status=200):
        return self.answer(self.http.get(path), status)

    def post(self, path, status=200, **fields):
        return self.answer(self.http.post(path, json={"model": self.model} | fields), status)

    @staticmethod
    def answer(answer, status):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json", answer.headers
        return answer.json()

    def events(self, path, **fields):
        """The events of a stream as [(event or None, data)]."""
        with self.http.stream("POST", path, json={"model": self.model, "stream": True} | fields) as answer:
            text = answer.read().decode()
            assert answer.status_code == 200, text
        events = []
        for block in text.split("\n\n"):
            lines = [line for line in block.split("\n") if line and not line.startswith(":")]
            if lines:
                named = dict(line.split(": ", 1) for line in lines)
                assert set(named) <= {"event", "data", "id"}, block
                events.append((named.get("event"), named["data"]))
        return events

    def chunks(self, path, **fields):
        *events, last = self.events(path, **fields)
        assert last == (None, "[DONE]"), last
        return [json.loads(data) for _, data in events]

    def validate(self, kind, value):
        """The value has the shape of a model, or of a type that is made of some."""
        adapter = pydantic.TypeAdapter(kind)
        found = adapter.validate_json(json.dumps(value), strict=True)
        for path in REQUIRED.get(type(found), ()):
            for place, is_there, _ in at(value, path.split(".")):
                assert is_there, f"{place} is missing: {value}"
        for path in OMITTED.get(type(found), ()):
            for place, is_there, what in at(value, path.split(".")):
                assert not is_there or what is not None, f"{place} is null: {value}"
        self.note_extras(found, type(found).__name__)
        return found

    def note_extras(self, found, place):
        if isinstance(found, list):
            for entry in found:
                self.note_extras(entry, place)
        elif isinstance(found, pydantic.BaseModel):
            self.extras |= {f"{place}.{name}" for name in found.model_extra or ()}
            for name in type(found).model_fields:
                self.note_extras(getattr(found, name), f"{place}.{name}")


def at(value, path):
    """Where a path leads in a value: [(place, whether the key is there, what is there)]."""
    found = [("", True, value)]
    for step in path:
        deeper = []
        for place, is_there, what in found:
            if step == "*":
                deeper += [(f"{place}[{index}]", True, entry) for index, entry in enumerate(what or [])]
            elif isinstance(what, dict):
                deeper.append((f"{place}.{step}", step in what, what.get(step)))
        found = deeper
    return found


@check("models")
def models_are_models(ctx):
    page = ctx.get("/v1/models")
    assert page["object"] == "list", page
    for model in page["data"]:
        ctx.validate(Model, model)
    ctx.validate(Model, ctx.get(f"/v1/models/{ctx.model}"))


@check("chat")
def chat_completions_whole_and_streamed(ctx):
    for fields in ({}, {"n": 2, "logprobs": True, "top_logprobs": 2}, {"stop": ["a", "e"], "seed": 1}):
        fields = {"messages": MESSAGES, "max_tokens": 6, **fields}
        ctx.validate(ChatCompletion, ctx.post("/v1/chat/completions", **fields))
        for chunk in ctx.chunks("/v1/chat/completions", **fields):
            ctx.validate(ChatCompletionChunk, chunk)
        chunks = ctx.chunks("/v1/chat/completions", **fields, stream_options={"include_usage": True})
        for chunk in chunks:
            ctx.validate(ChatCompletionChunk, chunk)
            assert "usage" in chunk, chunk
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"], chunks[-1]


@check("completions")
def completions_whole_and_streamed(ctx):
    for extra in ({}, {"logprobs": 2}, {"logprobs": 2, "echo": True}, {"n": 2, "prompt": ["a", "b"]}):
        fields = {"prompt": "Once upon", "max_tokens": 6, **extra}
        ctx.validate(Completion, as_documented(ctx.post("/v1/completions", **fields), "echo" in fields))
        for chunk in ctx.chunks("/v1/completions", **fields):
            # The document forbids null here, and OpenAI's own streams send it until the end.
            for choice in chunk["choices"]:
                choice["finish_reason"] = choice["finish_reason"] or "stop"
            ctx.validate(Completion, as_documented(chunk, "echo" in fields))


def as_documented(answer, is_echo):
    """The document knows no first token of a prompt, which nothing predicts: OpenAI sends null."""
    for choice in answer["choices"] if is_echo else ():
        logprobs = choice["logprobs"]
        if logprobs is not None and logprobs["text_offset"][:1] == [0]:
            assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None, logprobs
            logprobs["token_logprobs"][0], logprobs["top_logprobs"][0] = 0.0, {}
    return answer


@check("errors")
def errors_are_error_objects(ctx):
    bad = [
        ctx.get("/no/such/path", 404),
        ctx.get("/v1/models/none", 404),
        ctx.get("/v1/chat/completions", 405),
        ctx.post("/v1/chat/completions", 400, messages=[]),
        ctx.post("/v1/chat/completions", 404, messages=MESSAGES, model="none"),
        ctx.post("/v1/completions", 400, prompt="a", temperature="hot"),
        ctx.post("/v1/completions", 400, prompt="a " * 100_000),
        ctx.answer(ctx.http.post("/v1/completions", content=b"{"), 400),
    ]
    for answer in bad:
        assert set(answer) == {"error"}, answer
        ctx.validate(ErrorObject, answer["error"])


@check("tools")
def tool_calls_whole_and_streamed(ctx):
    for choice in ("required", "auto", {"type": "function", "function": {"name": "weather"}}):
        fields = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": choice, "max_tokens": 200}
        ctx.validate(ChatCompletion, ctx.post("/v1/chat/completions", **fields))
        for chunk in ctx.chunks("/v1/chat/completions", **fields):
            ctx.validate(ChatCompletionChunk, chunk)


@check("structured")
def structured_answers_whole_and_streamed(ctx):
    schema = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True}}
    fields = {"messages": MESSAGES, "response_format": schema, "max_tokens": 200, "logprobs": True}
    ctx.validate(ChatCompletion, ctx.post("/v1/chat/completions", **fields))
    for chunk in ctx.chunks("/v1/chat/completions", **fields):
        ctx.validate(ChatCompletionChunk, chunk)


@check("responses")
def responses_whole_and_streamed(ctx):
    tools = [{"type": "function", "strict": True} | WEATHER]
    text = {"format": {"type": "json_schema", "name": "verdict", "schema": VERDICT, "strict": True}}
    for fields in (
        {"max_output_tokens": 16},
        {"max_output_tokens": 200, "tools": tools, "tool_choice": "required"},
        {"max_output_tokens": 200, "text": text, "instructions": "Be brief.", "metadata": {"a": "b"}},
    ):
        fields = {"input": "Say hello.", **fields}
        ctx.validate(Response, ctx.post("/v1/responses", **fields))
        for number, (name, data) in enumerate(ctx.events("/v1/responses", **fields)):
            event = json.loads(data)
            assert name == event["type"] and event["sequence_number"] == number, event
            ctx.validate(ResponseStreamEvent, event)
            if "response" in event:
                ctx.validate(Response, event["response"])


@check("embeddings")
def embeddings_are_embeddings(ctx):
    for given in ("stone", ["stone", "moss"], [5, 6], [[5], [6, 7]]):
        ctx.validate(CreateEmbeddingResponse, ctx.post("/v1/embeddings", input=given))


@check("batches")
def files_and_batches(ctx):
    body = {"model": ctx.model, "messages": MESSAGES, "max_tokens": 2}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    upload = {"file": ("jobs.jsonl", json.dumps(line).encode())}
    file = ctx.answer(ctx.http.post("/v1/files", files=upload, data={"purpose": "batch"}), 200)
    ctx.validate(FileObject, file)
    ctx.validate(FileObject, ctx.get(f"/v1/files/{file['id']}"))
    fields = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = ctx.answer(ctx.http.post("/v1/batches", json=fields), 200)
    ctx.validate(Batch, batch)
    start = time.monotonic()
    while batch["status"] != "completed":
        assert time.monotonic() - start < 120, batch
        time.sleep(0.1)
        batch = ctx.get(f"/v1/batches/{batch['id']}")
        ctx.validate(Batch, batch)
    for path, kind in (("/v1/files", FileObject), ("/v1/batches", Batch)):
        page = ctx.get(path)
        assert page["object"] == "list" and isinstance(page["has_more"], bool), page
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"]), page
        for item in page["data"]:
            ctx.validate(kind, item)
    ctx.validate(FileDeleted, ctx.answer(ctx.http.delete(f"/v1/files/{file['id']}"), 200))


@check("shapes")
def keys_beyond_the_document_are_listed(ctx):
    for name in sorted(ctx.extras):
        print(f"     not in OpenAI's document: {name}")


if __name__ == "__main__":
    parsed = arguments()
    run(Context(parsed), parsed, f"shapes of openai {openai.__version__}")
