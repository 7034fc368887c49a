#!/usr/bin/env python3
"""Checks a running server with the official OpenAI Python client.

    pip install openai
    python tests/server/openai_client.py http://127.0.0.1:8000 [MODEL]

Every line of the output is one check; the exit code is 1 when one fails. The prompt's meaning does
not matter, so any model will do.
"""

import asyncio
import json
import sys
import traceback

import openai

CHECKS = []
MESSAGES = [{"role": "user", "content": "Say hello."}]
# vLLM's addition, so that the number of tokens is known.
ALL_TOKENS = {"ignore_eos": True}


def check(function):
    CHECKS.append(function)
    return function


class Context:
    def __init__(self, base_url, model):
        settings = {"base_url": f"{base_url.rstrip('/')}/v1", "api_key": "none", "max_retries": 0, "timeout": 120}
        self.client = openai.OpenAI(**settings)
        self.async_client = openai.AsyncOpenAI(**settings)
        self.model = model or self.client.models.list().data[0].id


@check
def models_are_listed_and_found(ctx):
    models = ctx.client.models.list().data
    assert [m.id for m in models] == [ctx.model], models
    found = ctx.client.models.retrieve(ctx.model)
    assert found.id == ctx.model and found.object == "model" and found.created > 0, found


@check
def an_unknown_model_is_not_found(ctx):
    for call in (
        lambda: ctx.client.models.retrieve("no/such model"),
        lambda: ctx.client.chat.completions.create(model="no such model", messages=MESSAGES),
    ):
        error = raises(openai.NotFoundError, call)
        assert error.code == "model_not_found" and error.param == "model", error
        assert error.request_id, "x-request-id is missing"


@check
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


@check
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


@check
def the_stream_helper_accumulates(ctx):
    with ctx.client.chat.completions.stream(model=ctx.model, messages=MESSAGES, max_completion_tokens=5) as stream:
        for _ in stream:
            pass
        # Not `get_final_completion`, which raises when the length was the reason to end.
        final = stream.current_completion_snapshot
    assert final.choices[0].message.role == "assistant", final
    assert final.choices[0].finish_reason in ("stop", "length"), final


@check
def messages_may_come_in_parts_and_by_developers(ctx):
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = ctx.client.chat.completions.create(model=ctx.model, messages=messages, max_tokens=2)
    assert answer.choices[0].message.content is not None


@check
def completions_take_several_prompts_and_echo(ctx):
    answer = ctx.client.completions.create(
        model=ctx.model, prompt=["Once upon", "Two roads"], max_tokens=3, echo=True, extra_body=ALL_TOKENS
    )
    assert answer.object == "text_completion" and [c.index for c in answer.choices] == [0, 1], answer
    assert answer.choices[0].text.startswith("Once upon"), answer
    assert answer.choices[1].text.startswith("Two roads"), answer
    assert answer.usage.completion_tokens == 6, answer.usage


@check
def a_completion_stream_adds_up_to_the_whole(ctx):
    fields = dict(model=ctx.model, prompt="Once upon", max_tokens=12, temperature=0, extra_body=ALL_TOKENS)
    whole = ctx.client.completions.create(**fields)
    stream = ctx.client.completions.create(**fields, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


@check
def a_seed_repeats_and_a_stop_string_ends(ctx):
    fields = dict(model=ctx.model, prompt="Once upon", max_tokens=24, seed=7, temperature=1.5)
    first, second = (ctx.client.completions.create(**fields).choices[0] for _ in range(2))
    assert first.text == second.text, (first, second)
    if len(first.text) > 2 and "\ufffd" not in first.text:
        stop = first.text[1:3]
        cut = ctx.client.completions.create(**fields, stop=[stop]).choices[0]
        assert cut.finish_reason == "stop", cut
        assert cut.text == first.text[: first.text.index(stop)], (cut, first)


@check
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


@check
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


@check
def an_echo_scores_the_prompt(ctx):
    fields = dict(model=ctx.model, prompt="Once upon a time", echo=True, logprobs=1)
    one = ctx.client.completions.create(**fields, max_tokens=1, temperature=0).choices[0]
    none = ctx.client.completions.create(**fields, max_tokens=0).choices[0]
    assert one.logprobs.token_logprobs[0] is None and None not in one.logprobs.token_logprobs[1:], one
    assert one.logprobs.token_logprobs[:-1] == none.logprobs.token_logprobs, (one, none)
    assert none.text == fields["prompt"] and none.finish_reason == "length", none


@check
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


@check
def what_was_computed_before_is_told(ctx):
    messages = [{"role": "system", "content": "You answer in one word. " * 20}, *MESSAGES]
    fields = dict(model=ctx.model, messages=messages, max_tokens=1)
    ctx.client.chat.completions.create(**fields)
    usage = ctx.client.chat.completions.create(**fields).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens, usage


@check
def bad_requests_name_their_field(ctx):
    create = ctx.client.chat.completions.create
    for param, fields in {
        "temperature": {"temperature": -1},
        "n": {"n": 0},
        "top_logprobs": {"logprobs": True, "top_logprobs": 100},
        "logit_bias": {"logit_bias": {"no token": 1}},
        "tools[0].function.name": {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "max_tokens": {"max_tokens": -1},
    }.items():
        error = raises(openai.BadRequestError, lambda: create(model=ctx.model, messages=MESSAGES, **fields))
        assert error.param == param and error.type == "invalid_request_error", (param, error)
    long = [{"role": "user", "content": "word " * 1_000_000}]
    error = raises(openai.BadRequestError, lambda: create(model=ctx.model, messages=long))
    assert error.code == "context_length_exceeded", error


# Short whatever a model writes.
COLOURS = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
PAINT = {"name": "paint", "description": "Paints a wall.", "strict": True, "parameters": COLOURS}


def is_colour(text):
    return json.loads(text)["colour"] in ("red", "green")


@check
def a_tool_is_called_whole_and_streamed(ctx):
    fields = dict(
        model=ctx.model, messages=MESSAGES, max_tokens=600, tools=[{"type": "function", "function": PAINT}],
        parallel_tool_calls=False,
    )
    for choice in ("required", {"type": "function", "function": {"name": "paint"}}):
        answer = ctx.client.chat.completions.create(**fields, tool_choice=choice).choices[0]
        call = answer.message.tool_calls[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None, answer
        assert call.type == "function" and call.function.name == "paint", call
        assert is_colour(call.function.arguments), call
        with ctx.client.chat.completions.stream(**fields, tool_choice=choice) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion().choices[0].message
        assert "tool_calls.function.arguments.done" in kinds, kinds
        assert is_colour(final.tool_calls[0].function.arguments), final
        answered = [
            *MESSAGES,
            {"role": "assistant", "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ]
        ctx.client.chat.completions.create(model=ctx.model, messages=answered, max_tokens=1)


@check
def an_answer_follows_a_schema(ctx):
    schema = {"type": "json_schema", "json_schema": {"name": "wall", "strict": True, "schema": COLOURS}}
    fields = dict(model=ctx.model, messages=MESSAGES, max_tokens=600)
    answer = ctx.client.chat.completions.create(**fields, response_format=schema)
    assert is_colour(answer.choices[0].message.content), answer
    chosen = ctx.client.chat.completions.create(
        **fields, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chosen.choices[0].message.content in ("yes", "no"), chosen


@check
def a_response_is_whole_streamed_and_held(ctx):
    fields = dict(model=ctx.model, input="Say hello.", max_output_tokens=16, temperature=0)
    whole = ctx.client.responses.create(**fields, instructions="Be brief.", extra_body=ALL_TOKENS)
    assert whole.object == "response" and whole.status == "incomplete", whole
    assert whole.usage.output_tokens == 16 and whole.output[0].type in ("message", "reasoning"), whole
    assert ctx.client.responses.retrieve(whole.id).output_text == whole.output_text
    going_on = ctx.client.responses.create(**fields, previous_response_id=whole.id)
    assert going_on.usage.input_tokens > whole.usage.input_tokens, going_on
    ctx.client.responses.delete(whole.id)
    raises(openai.NotFoundError, lambda: ctx.client.responses.retrieve(whole.id))
    with ctx.client.responses.stream(**fields, extra_body=ALL_TOKENS) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events))), events
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete", events
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == events[-1].response.output_text, events[-1]


@check
def a_response_calls_tools_and_follows_schemas(ctx):
    fields = dict(model=ctx.model, input="Say hello.", max_output_tokens=600)
    tool = dict(tools=[{"type": "function", **PAINT}], tool_choice="required", parallel_tool_calls=False)
    answer = ctx.client.responses.create(**fields, **tool)
    call = next(item for item in answer.output if item.type == "function_call")
    assert answer.status == "completed" and is_colour(call.arguments), answer
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    ctx.client.responses.create(
        model=ctx.model, input=[output], previous_response_id=answer.id, max_output_tokens=16
    )
    with ctx.client.responses.stream(**fields, **tool) as stream:
        final = [event for event in stream][-1]
    assert final.type == "response.completed", final
    schema = {"format": {"type": "json_schema", "name": "wall", "strict": True, "schema": COLOURS}}
    assert is_colour(ctx.client.responses.create(**fields, text=schema).output_text)


@check
def a_stream_can_be_left(ctx):
    stream = ctx.client.chat.completions.create(model=ctx.model, messages=MESSAGES, stream=True, extra_body=ALL_TOKENS)
    next(iter(stream))
    stream.close()
    ctx.client.completions.create(model=ctx.model, prompt="a", max_tokens=1)


@check
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


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    ctx = Context(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None)
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function(ctx)
            print(f"ok      {name}")
        except Exception:  # whatever it is, the next check shall run too
            failed += 1
            print(f"FAILED  {name}")
            traceback.print_exc()
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed, openai {openai.__version__}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
