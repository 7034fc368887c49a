#!/usr/bin/env python3
"""Checks a running server with litellm, as an OpenAI-compatible and as a vLLM server."""

import asyncio
import importlib.metadata
import os

# Else it asks another server for the prices of models.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from checks import WEATHER, arguments, check, is_weather, raises, run

litellm.telemetry = False
litellm.suppress_debug_info = True

MESSAGES = [{"role": "user", "content": "Say hello."}]
TOOLS = [{"type": "function", "function": WEATHER}]


class Context:
    def __init__(self, parsed):
        self.model = parsed.model
        self.settings = dict(
            api_base=f"{parsed.base_url}/v1", api_key=parsed.key, num_retries=0, max_retries=0, timeout=120
        )

    def fields(self, provider="openai"):
        return dict(model=f"{provider}/{self.model}", **self.settings)


@check("chat")
def a_chat_completion_is_whole_for_each_provider(ctx):
    for provider in ("openai", "hosted_vllm"):
        answer = litellm.completion(**ctx.fields(provider), messages=MESSAGES, max_tokens=4, ignore_eos=True)
        assert answer.choices[0].finish_reason == "length", answer
        assert answer.usage.completion_tokens == 4, answer


@check("chat")
def a_stream_adds_up(ctx):
    fields = dict(**ctx.fields(), messages=MESSAGES, max_tokens=12, temperature=0)
    whole = litellm.completion(**fields)
    chunks = list(litellm.completion(**fields, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.usage.completion_tokens == whole.usage.completion_tokens, built


@check("chat")
def it_works_asynchronously(ctx):
    async def all_of_them():
        calls = (litellm.acompletion(**ctx.fields(), messages=MESSAGES, max_tokens=4) for _ in range(4))
        return await asyncio.gather(*calls)

    assert all(answer.choices[0].message.role == "assistant" for answer in asyncio.run(all_of_them()))


@check("completions")
def a_text_is_completed(ctx):
    fields = ctx.fields("text-completion-openai")
    answer = litellm.text_completion(**fields, prompt="Once upon", max_tokens=4)
    assert isinstance(answer.choices[0].text, str), answer


@check("errors")
def errors_have_their_class(ctx):
    raises(litellm.BadRequestError, lambda: litellm.completion(**ctx.fields(), messages=MESSAGES, temperature=-1))
    fields = ctx.fields() | {"model": "openai/no such model"}
    raises(litellm.NotFoundError, lambda: litellm.completion(**fields, messages=MESSAGES))
    long = [{"role": "user", "content": "word " * 1_000_000}]
    raises(litellm.ContextWindowExceededError, lambda: litellm.completion(**ctx.fields(), messages=long))


@check("tools")
def a_required_tool_is_called(ctx):
    answer = litellm.completion(
        **ctx.fields(), messages=MESSAGES, tools=TOOLS, tool_choice="required", max_tokens=400
    )
    calls = answer.choices[0].message.tool_calls
    assert calls and all(is_weather(call.function.arguments) for call in calls), answer


@check("embeddings")
def embeddings_are_made(ctx):
    answer = litellm.embedding(**ctx.fields(), input=["stone", "moss"], encoding_format="float")
    assert len(answer.data) == 2, answer


@check("responses")
def a_response_is_made(ctx):
    answer = litellm.responses(**ctx.fields(), input="Say hello.", max_output_tokens=16)
    assert answer.status in ("completed", "incomplete"), answer


@check("messages")
def a_message_is_made(ctx):
    settings = {"model": f"anthropic/{ctx.model}", "api_base": ctx.settings["api_base"].removesuffix("/v1")}
    answer = litellm.completion(**ctx.settings | settings, messages=MESSAGES, max_tokens=4)
    assert answer.usage.completion_tokens > 0, answer


if __name__ == "__main__":
    parsed = arguments()
    run(Context(parsed), parsed, f"litellm {importlib.metadata.version('litellm')}")
