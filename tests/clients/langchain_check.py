#!/usr/bin/env python3
"""Checks a running server with LangChain's client of OpenAI."""

import asyncio
import importlib.metadata
from typing import Literal

import pydantic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from checks import arguments, check, run

MESSAGES = [SystemMessage("Be brief."), HumanMessage("Say hello.")]


class Verdict(pydantic.BaseModel):
    """An answer that has an end, whatever the model is like."""

    is_good: bool
    grade: Literal["a", "b", "c"]


@tool
def weather(city: Literal["Bern", "Graz"]) -> str:
    """The weather of a city."""
    return f"12 degrees in {city}"


class Context:
    def __init__(self, parsed):
        self.settings = dict(
            model=parsed.model, base_url=f"{parsed.base_url}/v1", api_key=parsed.key, max_retries=0, timeout=120
        )

    def chat(self, **fields):
        return ChatOpenAI(**self.settings, **{"max_completion_tokens": 12, "temperature": 0} | fields)


@check("chat")
def a_chat_is_invoked(ctx):
    answer = ctx.chat(logprobs=True, top_logprobs=2).invoke(MESSAGES)
    assert isinstance(answer, AIMessage) and isinstance(answer.content, str), answer
    assert answer.usage_metadata["output_tokens"] <= 12, answer
    assert answer.response_metadata["finish_reason"] in ("stop", "length"), answer
    assert answer.response_metadata["logprobs"]["content"], answer


@check("chat")
def a_stream_adds_up(ctx):
    whole = ctx.chat().invoke(MESSAGES)
    pieces = list(ctx.chat(stream_usage=True).stream(MESSAGES))
    assert "".join(piece.content for piece in pieces) == whole.content, (pieces, whole)
    total = pieces[0]
    for piece in pieces[1:]:
        total += piece
    assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"], total


@check("chat")
def a_batch_is_answered_in_order(ctx):
    answers = ctx.chat().batch([[HumanMessage(f"Count from {index}.")] for index in range(4)])
    assert len(answers) == 4 and all(isinstance(answer, AIMessage) for answer in answers), answers
    again = asyncio.run(ctx.chat().ainvoke([HumanMessage("Count from 2.")]))
    assert again.content == answers[2].content, (again, answers)


@check("completions")
def a_text_is_completed(ctx):
    assert isinstance(OpenAI(**ctx.settings, max_tokens=4).invoke("Once upon"), str)


@check("tools")
def bound_tools_are_called(ctx):
    chat = ctx.chat(max_completion_tokens=400)
    answer = chat.bind_tools([weather], tool_choice="required").invoke(MESSAGES)
    call = answer.tool_calls[0]
    assert call["name"] == "weather" and call["args"]["city"] in ("Bern", "Graz"), answer
    told = [*MESSAGES, answer, *(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls)]
    ctx.chat().bind_tools([weather]).invoke(told)
    total = None
    for piece in chat.bind_tools([weather], tool_choice="weather").stream(MESSAGES):
        total = piece if total is None else total + piece
    assert total.tool_calls[0]["args"]["city"] in ("Bern", "Graz"), total


@check("structured")
def an_answer_has_its_class_by_each_method(ctx):
    chat = ctx.chat(max_completion_tokens=400)
    for method in ("json_schema", "function_calling"):
        answer = chat.with_structured_output(Verdict, method=method).invoke(MESSAGES)
        assert isinstance(answer, Verdict), (method, answer)


@check("embeddings")
def texts_are_embedded(ctx):
    # The server counts tokens itself; what it gets shall be the text.
    embeddings = OpenAIEmbeddings(**ctx.settings, check_embedding_ctx_length=False)
    one, two = embeddings.embed_documents(["stone", "moss"])
    assert len(one) == len(two) and one != two
    assert all(abs(a - b) < 1e-3 for a, b in zip(embeddings.embed_query("stone"), one))


@check("responses")
def a_response_is_invoked_and_streamed(ctx):
    chat = ctx.chat(use_responses_api=True, max_completion_tokens=16)
    whole = chat.invoke(MESSAGES)
    pieces = list(chat.stream(MESSAGES))
    assert "".join(piece.text for piece in pieces) == whole.text, (pieces, whole)


if __name__ == "__main__":
    parsed = arguments()
    run(Context(parsed), parsed, f"langchain-openai {importlib.metadata.version('langchain-openai')}")
