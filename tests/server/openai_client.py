#!/usr/bin/env python3
"""Checks a running server with the official OpenAI Python client.

    pip install openai
    python tests/server/openai_client.py http://127.0.0.1:8000 [MODEL]

Every line of the output is one check; the exit code is 1 when one fails. The prompt's meaning does
not matter, so any model will do.
"""

import asyncio
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
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage, chunks[-1]
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
def bad_requests_name_their_field(ctx):
    create = ctx.client.chat.completions.create
    for param, fields in {
        "temperature": {"temperature": -1},
        "n": {"n": 2},
        "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "max_tokens": {"max_tokens": -1},
    }.items():
        error = raises(openai.BadRequestError, lambda: create(model=ctx.model, messages=MESSAGES, **fields))
        assert error.param == param and error.type == "invalid_request_error", (param, error)
    long = [{"role": "user", "content": "word " * 1_000_000}]
    error = raises(openai.BadRequestError, lambda: create(model=ctx.model, messages=long))
    assert error.code == "context_length_exceeded", error


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
