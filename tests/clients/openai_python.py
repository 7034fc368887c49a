#!/usr/bin/env python3
"""Checks a running server with the official OpenAI Python client."""

import array
import asyncio
import base64
import json
import socket
import time
from typing import Literal

import openai
import pydantic

from checks import WEATHER, arguments, check, is_weather, raises, run

MESSAGES = [{"role": "user", "content": "Say hello."}]
# vLLM's addition, so that the number of tokens is known.
ALL_TOKENS = {"ignore_eos": True}
TOOLS = [{"type": "function", "function": WEATHER | {"strict": True}}]
# Enough for any answer that a grammar bounds, and an end for those that it does not.
ROOM = 400


class Verdict(pydantic.BaseModel, extra="forbid"):
    """An answer that has an end, whatever the model is like."""

    is_good: bool
    grade: Literal["a", "b", "c"]


class Context:
    def __init__(self, parsed):
        settings = {"base_url": f"{parsed.base_url}/v1", "api_key": parsed.key, "max_retries": 0, "timeout": 120}
        self.client = openai.OpenAI(**settings)
        self.async_client = openai.AsyncOpenAI(**settings)
        self.model = parsed.model


@check("models")
def models_are_listed_and_found(ctx):
    models = ctx.client.models.list().data
    assert [m.id for m in models] == [ctx.model], models
    found = ctx.client.models.retrieve(ctx.model)
    assert found.id == ctx.model and found.object == "model" and found.created > 0, found


@check("errors")
def an_unknown_model_is_not_found(ctx):
    for call in (
        lambda: ctx.client.models.retrieve("no/such model"),
        lambda: ctx.client.chat.completions.create(model="no such model", messages=MESSAGES),
    ):
        error = raises(openai.NotFoundError, call)
        assert error.code == "model_not_found" and error.param == "model", error
        assert error.request_id, "x-request-id is missing"


@check("chat")
def a_chat_completion_is_whole(ctx):
    answer = ctx.client.chat.completions.create(
        model=ctx.model, messages=MESSAGES, max_completion_tokens=8, extra_body=ALL_TOKENS
    )
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str), choice
    assert choice.message.tool_calls is None and choice.message.refusal is None, choice
    assert choice.finish_reason == "length" and choice.logprobs is None, choice
    usage = answer.usage
    assert usage.completion_tokens == 8 and usage.prompt_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


@check("chat")
def a_chat_stream_adds_up_to_the_whole(ctx):
    fields = dict(model=ctx.model, messages=MESSAGES, max_tokens=12, temperature=0, extra_body=ALL_TOKENS)
    whole = ctx.client.chat.completions.create(**fields)
    chunks = list(ctx.client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content, (text, whole)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}, reasons


@check("chat")
def the_stream_helper_accumulates(ctx):
    with ctx.client.chat.completions.stream(model=ctx.model, messages=MESSAGES, max_completion_tokens=5) as stream:
        for _ in stream:
            pass
        # Not `get_final_completion`, which raises when the length was the reason to end.
        final = stream.current_completion_snapshot
    assert final.choices[0].message.role == "assistant", final
    assert final.choices[0].finish_reason in ("stop", "length"), final


@check("chat")
def messages_may_come_in_parts_and_by_developers(ctx):
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = ctx.client.chat.completions.create(model=ctx.model, messages=messages, max_tokens=2)
    assert answer.choices[0].message.content is not None


@check("completions")
def completions_take_several_prompts_and_echo(ctx):
    answer = ctx.client.completions.create(
        model=ctx.model, prompt=["Once upon", "Two roads"], max_tokens=3, echo=True, extra_body=ALL_TOKENS
    )
    assert answer.object == "text_completion" and [c.index for c in answer.choices] == [0, 1], answer
    assert answer.choices[0].text.startswith("Once upon"), answer
    assert answer.choices[1].text.startswith("Two roads"), answer
    assert answer.usage.completion_tokens == 6, answer.usage


@check("completions")
def a_completion_stream_adds_up_to_the_whole(ctx):
    fields = dict(model=ctx.model, prompt="Once upon", max_tokens=12, temperature=0, extra_body=ALL_TOKENS)
    whole = ctx.client.completions.create(**fields)
    stream = ctx.client.completions.create(**fields, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


@check("completions")
def a_seed_repeats_and_a_stop_string_ends(ctx):
    fields = dict(model=ctx.model, prompt="Once upon", max_tokens=24, seed=7, temperature=1.5)
    first, second = (ctx.client.completions.create(**fields).choices[0] for _ in range(2))
    assert first.text == second.text, (first, second)
    if len(first.text) > 2 and "\ufffd" not in first.text:
        stop = first.text[1:3]
        cut = ctx.client.completions.create(**fields, stop=[stop]).choices[0]
        assert cut.finish_reason == "stop", cut
        assert cut.text == first.text[: first.text.index(stop)], (cut, first)


@check("chat")
def several_choices_come_whole_and_streamed(ctx):
    fields = dict(
        model=ctx.model, messages=MESSAGES, n=3, seed=7, max_tokens=8, temperature=1, extra_body=ALL_TOKENS
    )
    whole = ctx.client.chat.completions.create(**fields)
    assert [choice.index for choice in whole.choices] == [0, 1, 2], whole
    assert whole.usage.completion_tokens == 24, whole.usage
    texts = ["", "", ""]
    for chunk in ctx.client.chat.completions.create(**fields, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices], (texts, whole)
    alone = ctx.client.chat.completions.create(**fields | {"n": 1})
    assert alone.choices[0].message.content == texts[0], (alone, texts)


@check("logprobs")
def logprobs_have_the_shape_of_openai(ctx):
    fields = dict(model=ctx.model, max_tokens=4, temperature=0, extra_body=ALL_TOKENS)
    chat = ctx.client.chat.completions.create(**fields, messages=MESSAGES, logprobs=True, top_logprobs=3)
    content = chat.choices[0].logprobs.content
    assert len(content) == 4 and all(len(token.top_logprobs) == 3 for token in content), content
    assert all(token.top_logprobs[0].token == token.token and token.logprob <= 0 for token in content), content
    joined = bytes(byte for token in content for byte in token.bytes).decode(errors="replace")
    assert joined == chat.choices[0].message.content, (joined, chat)
    chunks = ctx.client.chat.completions.create(
        **fields, messages=MESSAGES, logprobs=True, top_logprobs=3, stream=True
    )
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == content, (streamed, content)
    text = ctx.client.completions.create(**fields, prompt="Once upon", logprobs=2)
    logprobs = text.choices[0].logprobs
    lists = (logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset)
    assert [len(entries) for entries in lists] == [4] * 4, logprobs


@check("logprobs")
def an_echo_scores_the_prompt(ctx):
    fields = dict(model=ctx.model, prompt="Once upon a time", echo=True, logprobs=1)
    one = ctx.client.completions.create(**fields, max_tokens=1, temperature=0).choices[0]
    none = ctx.client.completions.create(**fields, max_tokens=0).choices[0]
    assert one.logprobs.token_logprobs[0] is None and None not in one.logprobs.token_logprobs[1:], one
    assert one.logprobs.token_logprobs[:-1] == none.logprobs.token_logprobs, (one, none)
    assert none.text == fields["prompt"] and none.finish_reason == "length", none


@check("chat")
def biases_stops_and_penalties_are_taken(ctx):
    extra = {"ignore_eos": True, "repetition_penalty": 1.1, "min_tokens": 2, "bad_words": ["never"], "min_p": 0.01}
    answer = ctx.client.chat.completions.create(
        model=ctx.model, messages=MESSAGES, max_tokens=6, presence_penalty=0.5, frequency_penalty=0.5,
        logit_bias={"100": 100}, extra_body=extra,
    )
    assert answer.usage.completion_tokens == 6, answer
    beams = ctx.client.completions.create(
        model=ctx.model, prompt="Once upon", n=2, best_of=4, max_tokens=6,
        extra_body={"use_beam_search": True, "length_penalty": 1.0},
    )
    assert len(beams.choices) == 2 and beams.choices[0].text != beams.choices[1].text, beams


@check("chat")
def what_was_computed_before_is_told(ctx):
    messages = [{"role": "system", "content": "You answer in one word. " * 20}, *MESSAGES]
    fields = dict(model=ctx.model, messages=messages, max_tokens=1)
    ctx.client.chat.completions.create(**fields)
    usage = ctx.client.chat.completions.create(**fields).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens, usage


@check("errors")
def bad_requests_name_their_field(ctx):
    create = ctx.client.chat.completions.create
    for param, fields in {
        "temperature": {"temperature": -1},
        "n": {"n": 0},
        "top_logprobs": {"logprobs": True, "top_logprobs": 100},
        "logit_bias": {"logit_bias": {"no token": 1}},
        "messages": {"messages": []},
        "tools": {"tools": [{"type": "function"}]},
        "max_tokens": {"max_tokens": -1},
    }.items():
        fields = {"model": ctx.model, "messages": MESSAGES} | fields
        error = raises(openai.BadRequestError, lambda: create(**fields))
        assert error.param.startswith(param) and error.type == "invalid_request_error", (param, error)
    long = [{"role": "user", "content": "word " * 1_000_000}]
    error = raises(openai.BadRequestError, lambda: create(model=ctx.model, messages=long))
    assert error.code == "context_length_exceeded", error


@check("chat")
def a_stream_can_be_left(ctx):
    stream = ctx.client.chat.completions.create(model=ctx.model, messages=MESSAGES, stream=True, extra_body=ALL_TOKENS)
    next(iter(stream))
    stream.close()
    ctx.client.completions.create(model=ctx.model, prompt="a", max_tokens=1)


@check("async")
def many_clients_are_served_together(ctx):
    async def one(index):
        stream = await ctx.async_client.chat.completions.create(
            model=ctx.model,
            messages=[{"role": "user", "content": f"Count from {index}."}],
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=ALL_TOKENS,
        )
        return [chunk async for chunk in stream][-1].usage.completion_tokens

    async def all_of_them():
        return await asyncio.gather(*(one(index) for index in range(8)))

    assert asyncio.run(all_of_them()) == [16] * 8


@check("errors")
def what_goes_wrong_has_its_class(ctx):
    slow = dict(model=ctx.model, messages=MESSAGES, extra_body=ALL_TOKENS, max_tokens=512)
    raises(openai.APITimeoutError, lambda: ctx.client.with_options(timeout=0.005).chat.completions.create(**slow))
    with socket.create_server(("127.0.0.1", 0)) as holder:
        nobody = f"http://127.0.0.1:{holder.getsockname()[1]}/v1"
    raises(openai.APIConnectionError, lambda: ctx.client.with_options(base_url=nobody).models.list())
    error = raises(openai.NotFoundError, lambda: ctx.client.post("/no/such/path", cast_to=object, body={}))
    assert error.body["type"] == "invalid_request_error", error.body
    error = raises(openai.APIStatusError, lambda: ctx.client.get("/chat/completions", cast_to=object))
    assert error.status_code == 405 and error.response.headers["allow"] == "POST", error
    huge = [{"role": "user", "content": "x" * (9 << 20)}]
    error = raises(openai.APIStatusError, lambda: ctx.client.chat.completions.create(model=ctx.model, messages=huge))
    assert error.status_code == 413, error


@check("chat")
def raw_responses_have_their_headers(ctx):
    raw = ctx.client.chat.completions.with_raw_response.create(
        model=ctx.model, messages=MESSAGES, max_tokens=2, extra_headers={"x-request-id": "check-1"}
    )
    assert raw.headers["content-type"] == "application/json" and raw.request_id == "check-1", raw.headers
    assert raw.parse().usage.completion_tokens <= 2
    with ctx.client.chat.completions.with_streaming_response.create(
        model=ctx.model, messages=MESSAGES, max_tokens=2, stream=True
    ) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream"), raw.headers
        assert list(raw.iter_lines())[-2:] == ["data: [DONE]", ""]


@check("chat")
def a_bias_decides_a_token(ctx):
    banned = ctx.client.chat.completions.create(
        model=ctx.model, messages=MESSAGES, max_tokens=1, temperature=0, logprobs=True, extra_body=ALL_TOKENS
    ).choices[0]
    again = ctx.client.chat.completions.create(
        model=ctx.model, messages=MESSAGES, max_tokens=4, temperature=0, logit_bias={"100": 100},
        logprobs=True, extra_body=ALL_TOKENS,
    ).choices[0]
    tokens = {token.token for token in again.logprobs.content}
    assert len(tokens) == 1, tokens
    assert banned.logprobs.content, banned


@check("tools")
def a_required_tool_is_called_whole_and_streamed(ctx):
    fields = dict(
        model=ctx.model, messages=MESSAGES, tools=TOOLS, tool_choice="required", temperature=0, max_tokens=ROOM
    )
    choice = ctx.client.chat.completions.create(**fields, parallel_tool_calls=False).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    [call] = choice.message.tool_calls
    assert call.type == "function" and call.id and call.function.name == "weather", call
    assert is_weather(call.function.arguments), call
    name, text, reasons, ids = "", "", [], set()
    for chunk in ctx.client.chat.completions.create(**fields, parallel_tool_calls=False, stream=True):
        [delta] = chunk.choices
        for part in delta.delta.tool_calls or []:
            assert part.index == 0, part
            name += part.function.name or ""
            text += part.function.arguments or ""
            ids.add(part.id)
        reasons.append(delta.finish_reason)
    assert (name, text) == (call.function.name, call.function.arguments), (name, text)
    assert reasons[-1] == "tool_calls" and set(reasons[:-1]) == {None}, reasons
    assert len(ids - {None}) == 1, ids


@check("tools")
def a_named_tool_is_called_and_its_result_told(ctx):
    choice = {"type": "function", "function": {"name": "weather"}}
    fields = dict(model=ctx.model, tools=TOOLS, max_tokens=ROOM)
    message = ctx.client.chat.completions.create(**fields, messages=MESSAGES, tool_choice=choice).choices[0].message
    calls = message.tool_calls
    assert calls and all(is_weather(call.function.arguments) for call in calls), calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "12 degrees"} for call in calls]
    told = [*MESSAGES, message, *results]
    answer = ctx.client.chat.completions.create(**fields | {"max_tokens": 8}, messages=told, tool_choice="none")
    assert answer.choices[0].message.tool_calls is None, answer


@check("tools")
def tools_may_be_left_to_the_model(ctx):
    fields = dict(model=ctx.model, messages=MESSAGES, tools=TOOLS, max_tokens=16, temperature=0)
    choice = ctx.client.chat.completions.create(**fields).choices[0]
    assert choice.message.tool_calls or isinstance(choice.message.content, str), choice
    text = ""
    for chunk in ctx.client.chat.completions.create(**fields, tool_choice="auto", stream=True):
        text += chunk.choices[0].delta.content or ""
    assert choice.message.tool_calls or text == choice.message.content, (text, choice)


@check("structured")
def an_answer_is_parsed_into_its_class(ctx):
    fields = dict(model=ctx.model, messages=MESSAGES, max_tokens=ROOM)
    message = ctx.client.chat.completions.parse(**fields, response_format=Verdict).choices[0].message
    assert isinstance(message.parsed, Verdict), message
    with ctx.client.chat.completions.stream(**fields, response_format=Verdict) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Verdict)
    tool = openai.pydantic_function_tool(Verdict)
    calls = ctx.client.chat.completions.parse(**fields, tools=[tool], tool_choice="required").choices[0].message
    assert all(isinstance(call.function.parsed_arguments, Verdict) for call in calls.tool_calls), calls


@check("structured")
def an_answer_follows_its_schema(ctx):
    schema = {"name": "verdict", "schema": Verdict.model_json_schema(), "strict": True}
    fields = dict(model=ctx.model, messages=MESSAGES, max_tokens=ROOM, n=2, seed=3, temperature=1, logprobs=True)
    answer = ctx.client.chat.completions.create(
        **fields, response_format={"type": "json_schema", "json_schema": schema}
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop", choice
        Verdict.model_validate_json(choice.message.content)
    free = ctx.client.chat.completions.create(
        model=ctx.model, messages=MESSAGES, max_tokens=16, response_format={"type": "json_object"}
    )
    assert free.choices[0].message.content.lstrip().startswith("{"), free
    chosen = ctx.client.chat.completions.create(
        model=ctx.model, messages=MESSAGES, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chosen.choices[0].message.content in ("yes", "no"), chosen
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    error = raises(
        openai.BadRequestError,
        lambda: ctx.client.chat.completions.create(model=ctx.model, messages=MESSAGES, response_format=bad),
    )
    assert error.param.startswith("response_format"), error


@check("responses")
def a_response_is_whole(ctx):
    answer = ctx.client.responses.create(
        model=ctx.model, instructions="Be brief.", input="Say hello.", max_output_tokens=16, metadata={"a": "b"}
    )
    assert answer.object == "response" and answer.id.startswith("resp_"), answer
    assert answer.status in ("completed", "incomplete") and answer.error is None, answer
    if answer.status == "incomplete":
        assert answer.incomplete_details.reason == "max_output_tokens", answer
    assert isinstance(answer.output_text, str) and answer.metadata == {"a": "b"}, answer
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and usage.output_tokens <= 16, usage


@check("responses")
def a_response_stream_adds_up(ctx):
    said = [{"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}]
    fields = dict(model=ctx.model, input=said, max_output_tokens=24, temperature=0)
    whole = ctx.client.responses.create(**fields)
    events = list(ctx.client.responses.create(**fields, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert kinds[-1] == f"response.{whole.status}", kinds
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text, (text, whole)
    for begun, done in (("output_item.added", "output_item.done"), ("content_part.added", "content_part.done")):
        assert kinds.count(f"response.{begun}") == kinds.count(f"response.{done}"), kinds
    with ctx.client.responses.stream(**fields) as stream:
        for _ in stream:
            pass


@check("responses")
def a_response_is_held_and_gone_on_from(ctx):
    fields = dict(model=ctx.model, input="Say hello.", max_output_tokens=16)
    whole = ctx.client.responses.create(**fields)
    assert ctx.client.responses.retrieve(whole.id).output_text == whole.output_text
    going_on = ctx.client.responses.create(**fields, previous_response_id=whole.id)
    assert going_on.usage.input_tokens > whole.usage.input_tokens, going_on
    ctx.client.responses.delete(whole.id)
    raises(openai.NotFoundError, lambda: ctx.client.responses.retrieve(whole.id))


@check("responses")
def a_response_calls_tools_and_follows_schemas(ctx):
    tool = {"type": "function", "strict": True} | WEATHER
    fields = dict(model=ctx.model, input="Say hello.", max_output_tokens=ROOM)
    answer = ctx.client.responses.create(**fields, tools=[tool], tool_choice="required")
    calls = [item for item in answer.output if item.type == "function_call"]
    assert calls and all(is_weather(call.arguments) and call.name == "weather" for call in calls), answer
    told = [
        {"role": "user", "content": "Say hello."},
        {"type": "function_call", "call_id": calls[0].call_id, "name": "weather", "arguments": calls[0].arguments},
        {"type": "function_call_output", "call_id": calls[0].call_id, "output": "12 degrees"},
    ]
    ctx.client.responses.create(**fields | {"input": told, "max_output_tokens": 16}, tools=[tool])
    parsed = ctx.client.responses.parse(**fields, text_format=Verdict)
    assert isinstance(parsed.output_parsed, Verdict), parsed


@check("embeddings")
def embeddings_are_unit_vectors(ctx):
    create = ctx.client.embeddings.create
    answer = create(model=ctx.model, input=["stone", "moss", "stone"], encoding_format="float")
    vectors = [item.embedding for item in answer.data]
    assert [item.index for item in answer.data] == [0, 1, 2] and answer.usage.prompt_tokens > 0, answer.usage
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-3 for vector in vectors)
    assert close(vectors[0], vectors[2]) and not close(vectors[0], vectors[1])
    packed = ctx.client.post(
        "/embeddings", cast_to=object, body={"model": ctx.model, "input": "stone", "encoding_format": "base64"}
    )
    assert close(array.array("f", base64.b64decode(packed["data"][0]["embedding"])), vectors[0])
    # What the client does by itself, which is base64.
    assert close(create(model=ctx.model, input="stone").data[0].embedding, vectors[0])
    tokens = create(model=ctx.model, input=[[5, 6, 7], [5]], encoding_format="float")
    assert len(tokens.data) == 2 and tokens.usage.prompt_tokens == 4, tokens.usage


def close(a, b):
    return len(a) == len(b) and all(abs(x - y) < 1e-3 for x, y in zip(a, b))


@check("batches")
def a_batch_is_answered_line_by_line(ctx):
    def line(index, fields):
        body = {"model": ctx.model, "messages": MESSAGES, "max_tokens": 4} | fields
        return {"custom_id": f"job-{index}", "method": "POST", "url": "/v1/chat/completions", "body": body}

    lines = [line(index, {}) for index in range(4)] + [line(4, {"temperature": -1})]
    jsonl = "\n".join(json.dumps(entry) for entry in lines).encode()
    file = ctx.client.files.create(file=("jobs.jsonl", jsonl), purpose="batch")
    assert file.bytes == len(jsonl) and file.filename == "jobs.jsonl" and file.purpose == "batch", file
    assert ctx.client.files.retrieve(file.id).id == file.id
    assert file.id in [found.id for found in ctx.client.files.list()]
    assert ctx.client.files.content(file.id).content == jsonl
    batch = ctx.client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    assert batch.id in [found.id for found in ctx.client.batches.list(limit=5)]
    start = time.monotonic()
    while batch.status in ("validating", "in_progress", "finalizing"):
        assert time.monotonic() - start < 120, batch
        time.sleep(0.2)
        batch = ctx.client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.metadata == {"a": "b"}, batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 4, 1), counts

    def answers(file_id):
        return [json.loads(text) for text in ctx.client.files.content(file_id).text.splitlines()]

    good, bad = answers(batch.output_file_id), answers(batch.error_file_id)
    assert sorted(answer["custom_id"] for answer in good) == [f"job-{index}" for index in range(4)], good
    assert all(answer["response"]["status_code"] == 200 for answer in good), good
    assert [answer["custom_id"] for answer in bad] == ["job-4"], bad
    assert ctx.client.files.delete(file.id).deleted
    raises(openai.NotFoundError, lambda: ctx.client.files.retrieve(file.id))


@check("batches")
def a_batch_can_be_cancelled_and_a_bad_one_is_refused(ctx):
    body = {"model": ctx.model, "messages": MESSAGES, "max_tokens": 16, "ignore_eos": True}
    lines = [
        {"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions", "body": body} for index in range(400)
    ]
    jsonl = "\n".join(json.dumps(entry) for entry in lines).encode()
    file = ctx.client.files.create(file=("long.jsonl", jsonl), purpose="batch")
    fields = dict(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = ctx.client.batches.cancel(ctx.client.batches.create(**fields).id)
    start = time.monotonic()
    while batch.status == "cancelling":
        assert time.monotonic() - start < 120, batch
        time.sleep(0.2)
        batch = ctx.client.batches.retrieve(batch.id)
    assert batch.status == "cancelled", batch
    raises(openai.APIStatusError, lambda: ctx.client.batches.create(**fields | {"input_file_id": "file-none"}))
    raises(openai.BadRequestError, lambda: ctx.client.batches.create(**fields | {"endpoint": "/v1/none"}))


if __name__ == "__main__":
    parsed = arguments()
    run(Context(parsed), parsed, f"openai {openai.__version__}")
