#!/usr/bin/env python3
"""Checks a running server with Anthropic's Python client."""

import anthropic

from checks import WEATHER, arguments, check, raises, run

MESSAGES = [{"role": "user", "content": "Say hello."}]
# The API has it; this client has no argument for it.
GREEDY = {"temperature": 0}
TOOLS = [
    {"name": WEATHER["name"], "description": WEATHER["description"], "input_schema": WEATHER["parameters"]},
]


class Context:
    def __init__(self, parsed):
        # The client adds `/v1/messages`.
        self.client = anthropic.Anthropic(base_url=parsed.base_url, api_key=parsed.key, max_retries=0, timeout=120)
        self.model = parsed.model


def is_weather(found):
    return set(found) == {"city", "unit"} and found["city"] in ("Bern", "Graz") and found["unit"] in ("C", "F")


@check("messages")
def a_message_is_whole(ctx):
    message = ctx.client.messages.create(
        model=ctx.model, system="Be brief.", messages=MESSAGES, max_tokens=8,
        extra_body={"temperature": 0.5, "top_k": 20},
    )
    assert message.type == "message" and message.role == "assistant" and message.id.startswith("msg_"), message
    assert [block.type for block in message.content] == ["text"], message
    assert message.stop_reason in ("max_tokens", "end_turn"), message
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens > 0 and 0 < usage.output_tokens <= 8, message


@check("messages")
def a_message_stream_adds_up(ctx):
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    fields = dict(
        model=ctx.model, messages=[{"role": "user", "content": parts}], max_tokens=24, extra_body=GREEDY
    )
    whole = ctx.client.messages.create(**fields)
    events = list(ctx.client.messages.create(**fields, stream=True))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1, kinds
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text, (text, whole)
    with ctx.client.messages.stream(**fields) as stream:
        assert "".join(stream.text_stream) == text
        final = stream.get_final_message()
    assert final.stop_reason == whole.stop_reason, final
    assert final.usage.output_tokens == whole.usage.output_tokens, final


@check("messages")
def a_stop_sequence_is_named(ctx):
    fields = dict(model=ctx.model, messages=MESSAGES, max_tokens=24, extra_body=GREEDY)
    text = ctx.client.messages.create(**fields).content[0].text
    if len(text) > 2 and "\ufffd" not in text:
        cut = ctx.client.messages.create(**fields, stop_sequences=[text[1:3]])
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", text[1:3]), cut
        assert "".join(block.text for block in cut.content) == text[: text.index(text[1:3])], cut


@check("messages")
def tools_are_used_whole_and_streamed(ctx):
    fields = dict(model=ctx.model, messages=MESSAGES, tools=TOOLS, max_tokens=400, extra_body=GREEDY)
    choice = {"type": "any", "disable_parallel_tool_use": True}
    message = ctx.client.messages.create(**fields, tool_choice=choice)
    assert message.stop_reason == "tool_use", message
    [use] = [block for block in message.content if block.type == "tool_use"]
    assert use.name == "weather" and is_weather(use.input), use
    with ctx.client.messages.stream(**fields, tool_choice=choice) as stream:
        [streamed] = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert (streamed.name, streamed.input) == (use.name, use.input), (streamed, use)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "12 degrees"}
    told = [*MESSAGES, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    ctx.client.messages.create(**fields | {"messages": told, "max_tokens": 8})
    named = ctx.client.messages.create(**fields, tool_choice={"type": "tool", "name": "weather"})
    assert all(is_weather(block.input) for block in named.content if block.type == "tool_use"), named


@check("messages")
def errors_have_their_class(ctx):
    create = ctx.client.messages.create
    error = raises(anthropic.NotFoundError, lambda: create(model="no such", messages=MESSAGES, max_tokens=1))
    assert error.body["type"] == "error" and error.body["error"]["type"] == "not_found_error", error.body
    for fields in ({"messages": []}, {"max_tokens": 0}, {"extra_body": {"temperature": 9}}):
        fields = {"model": ctx.model, "messages": MESSAGES, "max_tokens": 1} | fields
        error = raises(anthropic.BadRequestError, lambda: create(**fields))
        assert error.body["error"]["type"] == "invalid_request_error", error.body


@check("messages")
def tokens_are_counted(ctx):
    counted = ctx.client.messages.count_tokens(model=ctx.model, messages=MESSAGES).input_tokens
    usage = ctx.client.messages.create(model=ctx.model, messages=MESSAGES, max_tokens=1).usage
    # What was cached is counted apart.
    assert counted == usage.input_tokens + usage.cache_read_input_tokens, (counted, usage)


if __name__ == "__main__":
    parsed = arguments()
    run(Context(parsed), parsed, f"anthropic {anthropic.__version__}")
