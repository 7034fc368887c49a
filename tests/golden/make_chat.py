"""Makes `text/chat_tools.json`: conversations with tools, thoughts and documents, as Transformers renders them.

    python make_chat.py

Needs transformers and tokenizers, whose versions are recorded. The templates are written for this test, in the
manner of the model families; each case names a template, what is given to it, and the text or the kind of error.
"""

import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).parent / "text" / "chat_tools.json"

TEMPLATES = {
    # A list of signatures in the system's turn, calls and answers between tags.
    "tagged": """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'You may call:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    # Thoughts of the last turns only, and a switch for them.
    "thinking": """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last < 0 and message.role == 'user' %}{%- set ns.last = messages | length - 1 - loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set thought = '' %}
    {%- if message.reasoning_content is string %}
        {%- set thought = message.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<' + message.role + '>' }}
    {%- if loop.index0 > ns.last and thought %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
    {{- content + '</' + message.role + '>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<assistant>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    # Tools with an indent in the first user's turn, one call for each turn, a date by name.
    "indented": """\
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '[system]' + date_string + '|' + system_message + '[end]' }}
{%- if tools is not none %}
    {%- set first = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- '[user]' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {{- first + '[end]' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '[' + message['role'] + ']' + message['content'] | trim + '[end]' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '[assistant]{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- '}[end]' }}
    {%- else %}
        {{- '[ipython]' }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- '[end]' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}""",
    # Tools before the last user's turn, calls with ids of nine characters.
    "with_ids": """\
{{- bos_token }}
{%- set ns = namespace(users=0) %}
{%- for message in messages if message.role == 'user' %}{%- set ns.users = ns.users + 1 %}{%- endfor %}
{%- set count = namespace(users=0) %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- set count.users = count.users + 1 %}
        {%- if tools is not none and count.users == ns.users %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != 'return' %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ', ' }}{%- endif %}
                {%- endfor %}
                {{- '}}' }}
                {%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' }}{%- endif %}
            {%- endfor %}
            {{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message['content'] + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function | tojson %}
            {{- out[:-1] }}
            {%- if call.id is not defined or call.id | length != 9 %}{{- raise_exception('ids have nine characters') }}{%- endif %}
            {{- ', "id": "' + call.id + '"}' }}
            {%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}""",
    # Fenced calls between markers, and thought cut off what was said.
    "fenced": """\
{%- set ns = namespace(is_first=true) %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{- '<｜User｜>' + message['content'] }}{%- endif %}
    {%- if message['role'] == 'assistant' and 'tool_calls' in message %}
        {{- '<｜Assistant｜>' }}
        {%- for call in message['tool_calls'] %}
            {%- if ns.is_first %}{{- '<｜tool▁calls▁begin｜>' }}{%- set ns.is_first = false %}{%- else %}{{- '\\n' }}{%- endif %}
            {{- '<｜tool▁call▁begin｜>' + call['type'] + '<｜tool▁sep｜>' + call['function']['name'] + '\\n```json\\n' + call['function']['arguments'] | tojson + '\\n```<｜tool▁call▁end｜>' }}
        {%- endfor %}
        {{- '<｜tool▁calls▁end｜>' + eos_token }}
    {%- elif message['role'] == 'assistant' %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}
        {{- '<｜Assistant｜>' + content + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {{- '<｜tool▁output｜>' + message['name'] + '=' + message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}""",
    "documents": """\
{%- if documents %}{%- for document in documents %}{{- loop.index ~ '. ' ~ document.title ~ ': ' ~ document['text'] ~ '\\n' }}{%- endfor %}{%- else %}{{- 'none\\n' }}{%- endif %}
{{- style | default('plain') }}{{ levels | tojson if levels is defined }}
{%- for message in messages %}{{- '\\n' + message.content }}{%- endfor %}""",
    "trimmed": "{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}</{{ message.role }}>{% endfor %}",
    "no_last": "{% for message in messages[:-1] %}{{ message.content }}{% endfor %}",
    "no_text": "{{ messages | length }}",
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'The weather "now" in a city, <b>&c.</b> été',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name"},
                    "days": {"type": "integer", "minimum": 1, "default": 3},
                    "unit": {"type": "string", "enum": ["°C", "°F"]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]


def call(name, arguments, id="abc123XYZ"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


ASK = {"role": "user", "content": "How is the weather in Lyon? "}
ARGUMENTS = {"city": "Lyon\n\"é\"", "days": 2, "x": [1.5, None, True, {"b": "a", "a": {}}], "0": "</tool_call>"}
CALLED = [
    {"role": "system", "content": " Be brief. "},
    ASK,
    {"role": "assistant", "tool_calls": [call("weather", ARGUMENTS)]},
    {"role": "tool", "content": '{"temperature": 20}', "tool_call_id": "abc123XYZ", "name": "weather"},
    {"role": "assistant", "content": "It is 20 degrees."},
    {"role": "user", "content": "Thanks"},
]
SEVERAL = [
    ASK,
    {"role": "assistant", "content": "Let me see.", "tool_calls": [call("weather", {"city": "Lyon"}), call("now", {}, "123456789")]},
    {"role": "tool", "content": "20", "tool_call_id": "abc123XYZ", "name": "weather"},
    {"role": "tool", "content": "noon", "tool_call_id": "123456789", "name": "now"},
]
THOUGHT = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n2", "reasoning_content": None},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4", "reasoning_content": "\nAs before.\n"},
]
BEGUN = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "One, two, "}]
SHORT = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "One"}]


def cases():
    for name in ("tagged", "indented", "with_ids", "fenced"):
        for messages in (CALLED, SEVERAL):
            for tools in ([], TOOLS):
                yield name, dict(messages=messages, tools=tools, add_generation_prompt=True)
                yield name, dict(messages=messages, tools=tools)
    for kwargs in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
        yield "thinking", dict(messages=THOUGHT, add_generation_prompt=True, kwargs=kwargs)
        yield "thinking", dict(messages=THOUGHT[:3], add_generation_prompt=True, kwargs=kwargs)
    yield "indented", dict(messages=CALLED, tools=TOOLS, kwargs={"date_string": "1 May 2026"})
    documents = [{"title": "A", "text": "a\nb"}, {"title": "B", "text": ""}]
    for kwargs in ({}, {"style": "terse", "levels": [1, {"a": None}]}):
        yield "documents", dict(messages=SHORT, documents=documents, kwargs=kwargs)
        yield "documents", dict(messages=SHORT, kwargs=kwargs)
    for name in TEMPLATES:
        for messages in (BEGUN, SHORT, CALLED, CALLED[:3], []):
            yield name, dict(messages=messages, continue_final_message=True)
    yield "tagged", dict(messages=BEGUN, continue_final_message=True, add_generation_prompt=True)
    yield "thinking", dict(messages=THOUGHT[:2], continue_final_message=True)


def render(template, given):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=template)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    try:
        text = tokenizer.apply_chat_template(
            given["messages"],
            tools=given.get("tools") or None,
            documents=given.get("documents") or None,
            tokenize=False,
            add_generation_prompt=given.get("add_generation_prompt", False),
            continue_final_message=given.get("continue_final_message", False),
            **given.get("kwargs", {}),
        )
        return {"text": text}
    except Exception as error:
        return {"error": type(error).__name__}


def main():
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    made = [{"template": name, **given, **render(TEMPLATES[name], given)} for name, given in cases()]
    document = {"versions": versions, "templates": TEMPLATES, "cases": made}
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    OUT.write_text(text + "\n")
    failed = [case["error"] for case in made if "error" in case]
    print(f"{len(made)} cases, {len(text)} bytes, errors {failed}")


main()
