#!/usr/bin/env python3
"""Random clients, well and badly behaved, against one server; then: is anything left of them?

    soak.py --cairn PROGRAM --model FOLDER [--seconds 600] [--workers 24] [--seed 0] [--json FILE]

Every worker does one random thing after another (see `DEEDS`). What a client is owed is counted
where it is owed: a status and a whole body, a stream up to its last event, or a refusal. Anything
else is a fault: a status of 500 and above, an answer that breaks off, none within a minute. A
client that sends half a request or does not read may also be left with a closed connection.

Before it, the same clients come for a short first round; once they are gone and all is idle, the
server's threads are the base. At the end, with all clients gone again: no request runs or waits, no
KV block is in use, memory is that of the warm server, descriptors are those of the fresh one and
threads those of the base, the log has no panic and no
error, and SIGTERM ends it with 0. The exit status is 0 if all of that holds.
"""

import argparse
import asyncio
import collections
import hashlib
import json
import os
import random
import resource
import socket
import sys
import tempfile
import shutil
import time

from program import Server

PATIENCE = 60
WARM_UP = 60
# Beyond every time-out of the server, and the life of its idle threads.
IDLE = 20
FIRST_ROUND = 20
# More than this after warm-up is taken for a leak; what the allocator keeps is below.
MAX_GROWTH = 32 << 20
# Threads of the runtime, and how many there may be of all kinds after an idle while.
RUNTIME = "tokio-rt-worker"
POOL = 32
KEYS = ("free", "alice", "bob")
BOUNDARY = "----parts"

SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "properties": {"c": {"enum": ["red", "green"]}, "d": {"type": "boolean"}},
     "required": ["c", "d"], "additionalProperties": False},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
]
BAD_SCHEMAS = [
    {"type": "no such type"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "((("},
    {"type": "string", "pattern": "(a{1,9000}){1,9000}"}, {"minimum": 2, "maximum": 1, "type": "integer"},
]
BAD_BODIES = [
    b"", b"{", b"[]", b"null", b"nonsense", b'{"prompt":', b"\xff\xfe\x00", b"[" * 100_000,
    b'{"prompt": 1.5}', b'{"prompt": "a", "max_tokens": -1}', b'{"prompt": "a", "temperature": "hot"}',
    b'{"prompt": "a", "n": 100000}', b'{"prompt": [999999]}', b'{"prompt": "a", "model": "other"}',
    b'{"prompt": "a", "stop": [1]}', b'{"prompt": "a", "logprobs": 1e99}',
    b'{"prompt": "' + b"a" * 100_000 + b'"}', b'{"prompt": "a", "logit_bias": {"x": 1}}',
]
TOOL = {"type": "function", "function": {"name": "count", "parameters": {
    "type": "object", "properties": {"to": {"enum": [1, 2, 3]}}, "required": ["to"]}}}


class Fault(Exception):
    """A client did not get what it was owed."""


class Client:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port, receive_bytes=None):
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        limit = receive_bytes or 1 << 16
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def head(self):
        """The status and the headers of an answer that is no interim one."""
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
            if status >= 200:
                lines = [line.split(":", 1) for line in head[1:] if ":" in line]
                return status, {name.lower(): value.strip() for name, value in lines}

    async def body(self, headers):
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.read()
        body = b""
        while True:
            size = int(await self.reader.readline(), 16)
            body += (await self.reader.readexactly(size + 2))[:size]
            if size == 0:
                return body

    async def answer(self):
        """A whole answer: its status, and its body."""
        status, headers = await self.head()
        body = await self.body(headers)
        if status >= 500:
            raise Fault(f"status {status}: {body[:300]!r}")
        if status >= 400:
            if not json.loads(body).get("error", {}).get("message"):
                raise Fault(f"status {status} without an error object: {body[:300]!r}")
        elif headers.get("content-type", "").startswith("text/event-stream"):
            last = [line for line in body.split(b"\n") if line.startswith(b"data: ")][-1]
            if last != b"data: [DONE]" and b"response.completed" not in last and b"response.incomplete" not in last:
                raise Fault(f"a stream ended with {last[:300]!r}")
        return status, body

    def close(self):
        self.writer.close()

    def reset(self):
        """Closes so that the server is told at once, and rudely."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


def request(method, path, body=b"", key="free", keep=False, kind="application/json"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-{key}\r\n"
        f"content-type: {kind}\r\nconnection: {'keep-alive' if keep else 'close'}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Soak:
    def __init__(self, server, seed):
        self.server = server
        self.port = server.port
        self.random = random.Random(seed)
        self.counts = collections.Counter()
        self.faults = []

    # What is sent.

    def key(self):
        return self.random.choice(KEYS)

    def text(self):
        shared = "You are a helpful assistant. " * self.random.randrange(4)
        return shared + "".join(self.random.choices("abcdefgh ", k=self.random.randrange(1, 80)))

    def generation(self, stream):
        """A path and a body that generates."""
        pick = self.random
        fields = {"stream": stream, "ignore_eos": pick.random() < 0.5, "temperature": pick.choice([0, 1]),
                  "max_tokens": pick.randrange(1, 200), "n": pick.choice([1, 1, 1, 2, 4])}
        if pick.random() < 0.5:
            return "/v1/completions", {**fields, "prompt": self.text(), "logprobs": pick.choice([None, 2]),
                                       "echo": pick.random() < 0.1, "stop": pick.choice([None, ["ab"]])}
        body = {**fields, "messages": [{"role": "user", "content": self.text()}]}
        kind = pick.randrange(8)
        if kind == 0:
            schema = pick.choice(SCHEMAS)
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        elif kind == 1:
            body.update(tools=[TOOL], tool_choice=pick.choice(["auto", "required"]))
        elif kind == 2:
            body["structured_outputs"] = {"regex": "[ab]{1,30}c"}
        elif kind == 3:
            del body["n"], body["ignore_eos"], body["messages"]
            body["max_output_tokens"] = body.pop("max_tokens")
            return "/v1/responses", {**body, "input": self.text()}
        return "/v1/chat/completions", body

    # What is done. Each returns a word for how it went.

    async def ask(self, client, data):
        await client.send(data)
        status, _ = await client.answer()
        return str(status)

    async def whole(self, client):
        path, body = self.generation(False)
        return await self.ask(client, request("POST", path, body, self.key()))

    async def stream(self, client):
        path, body = self.generation(True)
        return await self.ask(client, request("POST", path, body, self.key()))

    async def several_on_one_connection(self, client):
        for _ in range(self.random.randrange(2, 6)):
            path, body = self.generation(self.random.random() < 0.5)
            status = await self.ask(client, request("POST", path, body, self.key(), keep=True))
        return status

    async def half_closed(self, client):
        path, body = self.generation(True)
        await client.send(request("POST", path, body, self.key()))
        client.writer.write_eof()
        status, _ = await client.answer()
        return str(status)

    async def leave_in_stream(self, client):
        path, body = self.generation(True)
        body[("max_tokens", "max_output_tokens")[path == "/v1/responses"]] = 1000
        await client.send(request("POST", path, body, self.key()))
        wanted = self.random.randrange(1, 400)
        try:
            await client.reader.readexactly(wanted)
        except asyncio.IncompleteReadError as got:
            # A refusal is shorter than a stream, and whole.
            if not got.partial.startswith(b"HTTP/1.1 4"):
                raise
            return got.partial[9:12].decode()
        await asyncio.sleep(self.random.random() * 0.2)
        client.reset() if self.random.random() < 0.5 else client.close()
        return "left"

    async def leave_before_the_answer(self, client):
        path, body = self.generation(self.random.random() < 0.5)
        await client.send(request("POST", path, body, self.key()))
        await asyncio.sleep(self.random.random() * 0.02)
        client.reset() if self.random.random() < 0.5 else client.close()
        return "left"

    async def bad_body(self, client):
        path = self.random.choice(["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses"])
        status = await self.ask(client, request("POST", path, self.random.choice(BAD_BODIES)))
        if not status.startswith("4"):
            raise Fault(f"a bad body got {status}")
        return status

    async def bad_schema(self, client):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": self.random.choice(BAD_SCHEMAS)}}
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4, "response_format": form}
        return await self.ask(client, request("POST", "/v1/chat/completions", body))

    async def garbage(self, client):
        await client.send(self.random.randbytes(self.random.randrange(1, 2000)) + b"\r\n\r\n")
        return await self.refused_or_closed(client)

    async def half_a_head(self, client):
        data = request("POST", "/v1/completions", {"prompt": "a"})
        await client.send(data[:self.random.randrange(1, data.index(b"\r\n\r\n"))])
        if self.random.random() < 0.7:
            client.close()
            return "left"
        return await self.refused_or_closed(client)

    async def half_a_body(self, client):
        data = request("POST", "/v1/completions", {"prompt": "a" * 50})
        await client.send(data[:self.random.randrange(data.index(b"\r\n\r\n") + 4, len(data))])
        if self.random.random() < 0.7:
            client.close()
            return "left"
        return await self.refused_or_closed(client)

    async def refused_or_closed(self, client):
        try:
            return str((await client.answer())[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return "closed"

    async def slow_reader(self, client):
        body = {"prompt": self.text(), "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 2, "logprobs": 5}
        await client.send(request("POST", "/v1/completions", body))
        until = time.monotonic() + self.random.randrange(1, 12)
        try:
            while time.monotonic() < until:
                if not await client.reader.read(512):
                    return "closed"
                await asyncio.sleep(self.random.random())
            return "left"
        except ConnectionError:
            return "closed"

    async def embeddings(self, client):
        body = {"input": [self.text() for _ in range(self.random.randrange(1, 5))],
                "pooling": self.random.choice(["last", "mean"])}
        return await self.ask(client, request("POST", "/v1/embeddings", body, self.key()))

    async def look(self, client):
        path = self.random.choice(["/metrics", "/health/ready", "/health/deep", "/v1/models", "/openapi.json",
                                   "/version", "/load", "/nowhere", "/v1/completions"])
        await client.send(request("GET", path))
        status, headers = await client.head()
        await client.body(headers)
        # A deep check that does not come through in time says so.
        if status >= 500 and (path, status) != ("/health/deep", 503):
            raise Fault(f"GET {path}: {status}")
        return str(status)

    async def change_limits(self, client):
        pick = self.random
        fields = {pick.choice(["requests_per_second", "max_concurrent_requests", "tokens_per_minute"]):
                  pick.choice([None, 2, 50, 100_000])}
        if "requests_per_second" not in fields:
            fields["disabled"] = pick.random() < 0.1
        name = pick.choice(KEYS[1:])
        return await self.ask(client, request("PATCH", f"/admin/keys/{name}", fields, "boss"))

    async def other_admin(self, client):
        method, path, body = self.random.choice([
            ("PATCH", "/admin/limits", {"max_concurrent_requests": self.random.choice([None, 8, 64])}),
            ("GET", "/admin/usage", b""), ("GET", "/admin/events", b""), ("GET", "/admin/keys", b""),
            ("POST", "/admin/keys/reload", b""), ("POST", "/reset_prefix_cache", b""),
        ])
        return await self.ask(client, request(method, path, body, "boss"))

    async def come_and_go_of_a_key(self, client):
        name = f"guest-{self.random.randrange(1 << 40)}"
        await client.send(request("POST", "/admin/keys", {"name": name}, "boss", keep=True))
        status, _ = await client.answer()
        await client.send(request("DELETE", f"/admin/keys/{name}", b"", "boss"))
        return f"{status} {(await client.answer())[0]}"

    async def batch(self, client):
        line = {"custom_id": "", "method": "POST", "url": "/v1/completions",
                "body": {"prompt": self.text(), "max_tokens": 8}}
        lines = "".join(json.dumps({**line, "custom_id": str(i)}) + "\n" for i in range(5))
        form = (f"--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
                f"--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n"
                f"{lines}\r\n--{BOUNDARY}--\r\n")
        kind = f"multipart/form-data; boundary={BOUNDARY}"

        async def ask(method, path, body=b"", kind="application/json"):
            await client.send(request(method, path, body, keep=True, kind=kind))
            status, answer = await client.answer()
            if status != 200:
                raise Refused(str(status))
            return answer

        class Refused(Exception):
            pass

        try:
            file = json.loads(await ask("POST", "/v1/files", form.encode(), kind))["id"]
            body = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
            batch = json.loads(await ask("POST", "/v1/batches", body))
            if self.random.random() < 0.3:
                await ask("POST", f"/v1/batches/{batch['id']}/cancel")
            until = time.monotonic() + PATIENCE - 10
            while batch["status"] not in ("completed", "failed", "cancelled", "expired"):
                if time.monotonic() > until:
                    raise Fault(f"a batch is still {batch['status']}")
                await asyncio.sleep(0.2)
                batch = json.loads(await ask("GET", f"/v1/batches/{batch['id']}"))
            if batch["status"] == "completed":
                await ask("GET", f"/v1/files/{batch['output_file_id']}/content")
            for name in ("input_file_id", "output_file_id", "error_file_id"):
                if batch.get(name):
                    await ask("DELETE", f"/v1/files/{batch[name]}")
            return batch["status"]
        except Refused as refused:
            return str(refused)

    DEEDS = [
        (whole, 20), (stream, 20), (several_on_one_connection, 6), (half_closed, 4), (leave_in_stream, 15),
        (leave_before_the_answer, 8), (bad_body, 15), (bad_schema, 3), (garbage, 4), (half_a_head, 3),
        (half_a_body, 3), (slow_reader, 3), (embeddings, 6), (look, 6), (change_limits, 6), (other_admin, 4),
        (come_and_go_of_a_key, 1), (batch, 1),
    ]

    async def work(self, until):
        deeds, weights = zip(*self.DEEDS)
        while time.monotonic() < until:
            deed = self.random.choices(deeds, weights)[0]
            client = None
            try:
                receive_bytes = 4096 if deed is Soak.slow_reader else None
                client = await Client.connect(self.port, receive_bytes)
                async with asyncio.timeout(PATIENCE):
                    outcome = await deed(self, client)
            except TimeoutError:
                outcome = self.fault(deed, "nothing came within a minute")
            except (Fault, asyncio.IncompleteReadError, ConnectionError, ValueError, KeyError, IndexError) as fault:
                outcome = self.fault(deed, repr(fault))
            finally:
                if client:
                    client.close()
            self.counts[f"{deed.__name__}: {outcome}"] += 1

    def fault(self, deed, what):
        self.faults.append(f"{deed.__name__}: {what}")
        return "FAULT"

    async def watch(self, until, samples):
        started = time.monotonic()
        while time.monotonic() < until:
            await asyncio.sleep(min(5, max(0.1, until - time.monotonic())))
            samples.append((round(time.monotonic() - started, 1), self.server.resident_bytes(),
                            self.server.descriptors(), self.server.threads()))


def slope(samples):
    """Least squares: bytes per minute."""
    if len(samples) < 3:
        return 0.0
    times, sizes = [s[0] / 60 for s in samples], [s[1] for s in samples]
    t, m = sum(times) / len(times), sum(sizes) / len(sizes)
    return sum((x - t) * (y - m) for x, y in zip(times, sizes)) / sum((x - t) ** 2 for x in times)


def key_file():
    entry = '[[keys]]\nname = "{}"\nhash = "sha256:{}"\n{}\n'
    digest = lambda name: hashlib.sha256(f"sk-{name}".encode()).hexdigest()
    names = [("boss", "admin = true\n"), *((name, "") for name in KEYS)]
    return "\n".join(entry.format(name, digest(name), extra) for name, extra in names)


async def soak(server, seed, seconds, num_workers):
    run = Soak(server, seed)
    samples = []
    until = time.monotonic() + seconds
    workers = [run.work(until) for _ in range(num_workers)]
    await asyncio.gather(run.watch(until, samples), *workers)
    return run, samples


def look(server):
    return {"resident_bytes": server.resident_bytes(), "descriptors": server.descriptors(),
            "threads": server.threads(), "thread_names": server.thread_names()}


def lasting(seen):
    """Threads but for the runtime's, whose pool for blocking work grows and shrinks."""
    return {name: num for name, num in seen["thread_names"].items() if name != RUNTIME}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cairn", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--workers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    folder = tempfile.mkdtemp(prefix="soak-")
    keys = os.path.join(folder, "keys.toml")
    with open(keys, "w") as file:
        file.write(key_file())
    server = Server(args.cairn, args.model, [
        "--api-keys-file", keys, "--backend", "cpu", "--max-num-seqs", "16", "--max-num-queued-reqs", "64",
        "--kv-cache-bytes", "2MiB", "--no-cache", "--write-timeout", "3", "--header-timeout", "3",
        "--body-timeout", "3", "--timeout-keep-alive", "5", "--disable-access-log",
    ], folder)
    fresh = look(server)
    # What is begun at its first use, such as a pool of threads, belongs to the base.
    first, _ = asyncio.run(soak(server, args.seed + 1, FIRST_ROUND, args.workers))
    time.sleep(IDLE)
    base = look(server)
    run, samples = asyncio.run(soak(server, args.seed, args.seconds, args.workers))
    run.faults += first.faults
    time.sleep(IDLE)
    after = look(server)
    metrics = server.metrics()
    state = {name: metrics[name] for name in (
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "cairn_prefix_cache_blocks", "vllm:generation_tokens_total", "vllm:num_preemptions_total",
        "cairn_requests_timed_out_total", "cairn_key_limited_total", "cairn_compiles_after_ready_total")
        if name in metrics}
    code = server.stop()
    log = server.log()
    bad_lines = [line for line in log.splitlines() if "ERROR" in line or "panick" in line.lower()]

    warm = [sample for sample in samples if sample[0] >= min(WARM_UP, args.seconds / 4)]
    warm_bytes = warm[0][1] if warm else fresh["resident_bytes"]
    later = warm[len(warm) // 2:]
    checks = {
        "every client got what it was owed": not run.faults,
        "no request runs or waits": state["vllm:num_requests_running"] == 0 == state["vllm:num_requests_waiting"],
        "no KV block is in use": state["vllm:kv_cache_usage_perc"] == 0,
        "memory is that of the warm server": after["resident_bytes"] - warm_bytes < MAX_GROWTH,
        "descriptors are those of the fresh server": after["descriptors"] <= fresh["descriptors"] == base["descriptors"],
        "threads are those of the base": lasting(after) == lasting(base),
        "the pool for blocking work is bounded": after["threads"] <= max(base["threads"], POOL),
        "the log has no panic and no error": not bad_lines,
        "SIGTERM ends it with 0": code == 0,
    }
    by_deed = collections.Counter()
    for outcome, count in run.counts.items():
        by_deed[outcome.rsplit(": ", 1)[1]] += count
    result = {
        "seconds": args.seconds, "workers": args.workers, "seed": args.seed,
        "deeds": sum(run.counts.values()), "outcomes": dict(sorted(run.counts.items())),
        "outcomes_of_all": dict(by_deed.most_common()), "faults": run.faults[:50], "num_faults": len(run.faults),
        "fresh": fresh, "base": base, "resident_bytes_warm": warm_bytes,
        "resident_bytes_most": max((sample[1] for sample in samples), default=0),
        "descriptors_most": max((sample[2] for sample in samples), default=0),
        "threads_most": max((sample[3] for sample in samples), default=0),
        "after": after, "growth_bytes_per_minute": round(slope(warm)),
        "growth_bytes_per_minute_later_half": round(slope(later)),
        "metrics": state, "exit_code": code, "log_lines": len(log.splitlines()), "bad_log_lines": bad_lines[:20],
        "resident_bytes_by_second": [(second, size) for second, size, *_ in samples][::6],
        "checks": checks,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        with open(args.json, "w") as file:
            file.write(text + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    main()
