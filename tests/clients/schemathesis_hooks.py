"""What random requests are changed to, so that they reach the model and stay short.

A name that is not the served one ends at the door, and thousands of tokens take minutes. Only values
that are right are changed: what is wrong must stay wrong.
"""

import schemathesis

MOST = {"max_tokens": 8, "max_completion_tokens": 8, "n": 2, "best_of": 2, "min_tokens": 8}


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if isinstance(body.get("model"), str):
        del body["model"]
    for field, most in MOST.items():
        value = body.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value > most:
            body[field] = most
    if "prompt" in body or "messages" in body:
        body.setdefault("max_tokens", 8)
    return body
