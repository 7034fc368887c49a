"""What random requests are changed to, so that they reach the model and stay short.

A name that is not the served one ends at the door, thousands of tokens take minutes, and rules between
fields refuse nearly everything. Only values that are right are changed: what is wrong must stay wrong.
"""

import schemathesis

MOST = {"max_tokens": 8, "max_completion_tokens": 8, "max_output_tokens": 8, "n": 2, "best_of": 2, "min_tokens": 0}

LIMITED_BY = {"prompt": "max_tokens", "messages": "max_tokens", "input": "max_output_tokens"}


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if isinstance(body.get("model"), str):
        del body["model"]
    for field, most in MOST.items():
        if isinstance(body.get(field), int) and is_number(body[field]) and body[field] > most:
            body[field] = most
    for field in ("timeout", "deadline"):
        # Who gives little time is right to be told 504.
        if is_number(body.get(field)) and 0 < body[field] < 60:
            body[field] = 60
    if body.get("truncate_prompt_tokens") == 0:
        del body["truncate_prompt_tokens"]
    if body.get("use_beam_search") is not True:
        if is_number(body.get("length_penalty")) and -10 <= body["length_penalty"] <= 10:
            del body["length_penalty"]
        if isinstance(body.get("early_stopping"), bool):
            del body["early_stopping"]
    if body.get("stream") is not True and isinstance(body.get("stream_options"), dict):
        del body["stream_options"]
    if body.get("logprobs") is not True and "messages" in body:
        body.pop("top_logprobs", None)
    if body.get("prompt") in ("", []):
        body["prompt"] = "x"
    if isinstance(body.get("messages"), list):
        body["messages"] = [with_content(message) for message in body["messages"]]
    for field, wanted in LIMITED_BY.items():
        if field in body and body.get(wanted) is None:
            body[wanted] = 8
    return body


@schemathesis.hook
def map_query(context, query):
    # A stream of what happens ends only with the server.
    if isinstance(query, dict) and "follow" in query:
        query = {name: value for name, value in query.items() if name != "follow"}
    return query


def with_content(message):
    if isinstance(message, dict) and message.get("content") is None:
        return {**message, "content": "x"}
    return message
