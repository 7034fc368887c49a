"""What the checks in Python share: their arguments, and the line that each prints.

    python SCRIPT.py http://127.0.0.1:8000 [--key KEY] [--model MODEL] [--only A,B] [--skip A,B]

`--only` and `--skip` take groups, as in `tools`, or parts of a check's name. Every line of the output
is one check; the exit code is 1 when one fails. What a model says does not matter, so any model will
do, and one with random weights most of all.
"""

import argparse
import json
import sys
import traceback
import urllib.request

CHECKS = []
# A word of `--only` or `--skip` that is none of these is part of a name.
GROUPS = (
    "models", "chat", "completions", "logprobs", "errors", "async", "tools", "structured", "responses",
    "embeddings", "batches", "messages", "shapes",
)


def check(group):
    """Adds a function of the context to the checks of a group."""

    assert group in GROUPS, group

    def add(function):
        CHECKS.append((group, function))
        return function

    return add


def arguments():
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("base_url")
    parser.add_argument("--key", default="none", help="the API key")
    parser.add_argument("--model", help="the model [default: the first that is listed]")
    parser.add_argument("--only", default="", help="groups or parts of names, by commas")
    parser.add_argument("--skip", default="", help="groups or parts of names, by commas")
    parsed = parser.parse_args()
    parsed.base_url = parsed.base_url.rstrip("/")
    if parsed.model is None:
        request = urllib.request.Request(f"{parsed.base_url}/v1/models")
        request.add_header("authorization", f"Bearer {parsed.key}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            parsed.model = json.load(answer)["data"][0]["id"]
    return parsed


def matches(group, name, words):
    words = [word for word in words.split(",") if word]
    return any(word == group if word in GROUPS else word.replace("_", " ") in name for word in words)


def run(context, parsed, with_what):
    """Runs the checks in order and ends the process."""
    passed, failed, skipped = 0, 0, 0
    for group, function in CHECKS:
        name = function.__name__.replace("_", " ")
        if (parsed.only and not matches(group, name, parsed.only)) or matches(group, name, parsed.skip):
            skipped += 1
            print(f"SKIP {group}: {name}", flush=True)
            continue
        try:
            function(context)
            passed += 1
            print(f"PASS {group}: {name}", flush=True)
        except Exception:  # whatever it is, the next check shall run too
            failed += 1
            print(f"FAIL {group}: {name}", flush=True)
            traceback.print_exc()
    if parsed.only and passed + failed == 0:
        failed = 1
        print("no check has such a name")
    print(f"{passed} passed, {failed} failed, {skipped} skipped; {with_what}")
    sys.exit(1 if failed else 0)


def raises(kind, call):
    """The exception of this kind that a call ends with."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


# A function whose arguments cannot go on for ever, whatever a model with random weights says.
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Bern", "Graz"]},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


def is_weather(arguments_json):
    """Whether these are arguments of `WEATHER`."""
    found = json.loads(arguments_json)
    return set(found) == {"city", "unit"} and found["city"] in ("Bern", "Graz") and found["unit"] in ("C", "F")
