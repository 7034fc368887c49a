#!/usr/bin/env python3
"""Figures of the server under load, mostly on the null backend, which answers zeros at once.

    load.py --cairn PROGRAM --model FOLDER [--part memory|streams|null|cpu] [--json FILE]

memory    resident bytes with 0, 1,000 and 4,000 idle connections
streams   1,000 streams at once: all answered, time to first byte, tokens per second, memory
null      tokens per second at 256 streams beside the engine alone, where steps take no time
cpu       the same where they take some: computed by one thread, as if by a device

The client shares the processor with the server. It reads seldom and much (every `--read-every`
milliseconds whatever came), and looks only at the beginning and the end of each answer.
"""

import argparse
import json
import os
import resource
import select
import shutil
import socket
import statistics
import sys
import tempfile
import time

from program import Server, run_json

TAIL = 1024
# Their CPU time is told from that of starting the program.
EXTRA_RUNS = 3


class Stream:
    """One request whose answer is a stream of events."""

    def __init__(self, port, body):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body
        self.num_bytes = self.num_events = 0
        self.head = self.tail = b""
        self.sent_at = self.first_at = self.ended_at = None

    def send(self):
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.request)

    def read(self, buffer):
        """Whatever came; whether there may be more later."""
        while True:
            try:
                got = self.socket.recv_into(buffer)
            except BlockingIOError:
                return True
            except ConnectionError:
                got = 0
            now = time.perf_counter()
            if got == 0:
                self.ended_at = now
                self.socket.close()
                return False
            if self.first_at is None:
                self.first_at = now
                self.head = bytes(buffer[:min(got, TAIL)])
            self.num_bytes += got
            self.num_events += bytes(buffer[:got]).count(b"data: ")
            self.tail = (self.tail + bytes(buffer[max(0, got - TAIL):got]))[-TAIL:]
            if got < len(buffer):
                return True

    def num_tokens(self):
        """Of an answer that came whole; else none."""
        if not self.head.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in self.tail:
            return None
        usage = self.tail.rsplit(b'"completion_tokens":', 1)
        return int(usage[1].split(b",", 1)[0]) if len(usage) == 2 else None


def body_of(input_len, output_len, seed):
    return json.dumps({
        "prompt": [3 + (seed * 7919 + i * 31) % 256 for i in range(input_len)],
        "max_tokens": output_len, "temperature": 0, "ignore_eos": True, "stream": True,
        # The null backend's token is a special one, which would be no text.
        "skip_special_tokens": False, "stream_options": {"include_usage": True},
    }).encode()


def stream_all(server, num, input_len, output_len, read_every, seed=0, when_all_began=None):
    """All streams at once, to their ends: the streams, seconds from first to last."""
    streams = [Stream(server.port, body_of(input_len, output_len, seed + i)) for i in range(num)]
    buffer = memoryview(bytearray(1 << 20))
    epoll = select.epoll()
    waiting = {}
    started = time.perf_counter()
    for stream in streams:
        waiting[stream.socket.fileno()] = stream
        epoll.register(stream.socket, select.EPOLLIN)
        stream.send()
    running = []
    while waiting:
        for fd, _ in epoll.poll(30):
            stream = waiting.pop(fd)
            epoll.unregister(fd)
            if stream.read(buffer):
                running.append(stream)
    epoll.close()
    if when_all_began:
        when_all_began()
    while running:
        time.sleep(read_every / 1000)
        running = [stream for stream in running if stream.read(buffer)]
    return streams, time.perf_counter() - started


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


NULL = ["--backend", "null"]
CPU = ["--backend", "cpu", "--threads", "1"]


def start(args, backend, num_seqs, *flags):
    return Server(args.cairn, args.model, [
        *backend, "--max-num-seqs", str(num_seqs), "--max-num-queued-reqs", "4096",
        "--max-num-batched-tokens", str(max(512, num_seqs)), "--no-cache",
        "--max-connections", "8192", "--log-level", "warn", *flags,
    ])


def memory(args):
    server = start(args, NULL, 32, "--timeout-keep-alive", "600")
    request = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    held, rows = [], []
    # The allocator keeps what was given back, so a leak shows only in later rounds.
    for num in (0, 1000, 4000, *(f"{num}, round {i}" for i in range(2, 6) for num in (0, 4000))):
        if str(num).startswith("0,"):
            for client in held:
                client.close()
            held.clear()
        wanted = int(str(num).split(",")[0])
        while len(held) < wanted:
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(request)
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            held.append(client)
        time.sleep(1)
        rows.append({"connections": num, "resident_bytes": server.resident_bytes(),
                     "descriptors": server.descriptors(), "threads": server.threads()})
    base = rows[0]["resident_bytes"]
    for row in rows[1:3]:
        row["bytes_per_connection"] = (row["resident_bytes"] - base) // row["connections"]
    for client in held:
        client.close()
    code = server.stop()
    server.remove()
    return {"idle": rows, "exit_code": code}


def with_context(model, num_tokens):
    """A copy of a model whose sequences may be that long."""
    folder = tempfile.mkdtemp(prefix="load-model-")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["max_position_embeddings"] = num_tokens
    with open(path, "w") as file:
        json.dump(config, file)
    return folder


def streams(args):
    num, output_len = args.connections, args.stream_tokens
    # Long enough that the first stream still runs when the last one begins.
    args.model, given = with_context(args.model, 2 * output_len), args.model
    server = start(args, NULL, num, "--kv-cache-bytes", "4GiB")
    shutil.rmtree(args.model)
    args.model = given
    base, idle_descriptors = server.resident_bytes(), server.descriptors()
    stream_all(server, 16, 8, 64, 1)
    at_once = {}

    def look():
        at_once.update(resident_bytes=server.resident_bytes(), descriptors=server.descriptors(),
                       running=server.metrics()["vllm:num_requests_running"])

    cpu = server.cpu_seconds()
    done, seconds = stream_all(server, num, 8, output_len, args.read_every, 0, look)
    cpu = server.cpu_seconds() - cpu
    tokens = [stream.num_tokens() for stream in done]
    firsts = [(stream.first_at - stream.sent_at) * 1000 for stream in done if stream.first_at]
    total = sum(count or 0 for count in tokens)
    time.sleep(1)
    result = {
        "connections": num, "answered_whole": sum(count == output_len for count in tokens),
        "tokens": total, "seconds": round(seconds, 3), "tokens_per_second": round(total / seconds),
        "mbytes": round(sum(stream.num_bytes for stream in done) / 1e6, 1),
        "open_when_the_last_began": at_once["descriptors"] - idle_descriptors,
        "first_byte_ms": {"p50": round(quantile(firsts, 0.5), 1), "p99": round(quantile(firsts, 0.99), 1)},
        "server_cpu_us_per_token": round(cpu / max(total, 1) * 1e6, 3),
        "resident_bytes_before": base, "while_all_were_open": at_once,
        "bytes_per_stream": (at_once["resident_bytes"] - base) // num,
        "resident_bytes_after": server.resident_bytes(), "descriptors_after": server.descriptors(),
    }
    result["exit_code"] = server.stop()
    server.remove()
    return result


def engine_alone(args, backend, output_len, runs):
    return run_json([
        args.cairn, "bench", "throughput", args.model, *backend, "--json", "--no-progress",
        "--num-seqs", str(args.streams), "--max-num-seqs", str(args.streams), "--no-cache",
        "--max-num-batched-tokens", str(max(512, args.streams)),
        "--input-len", str(args.input_len), "--output-len", str(output_len), "--runs", str(runs),
    ])


def compare(args, backend, output_len):
    """Takes turns, so that what else the machine does falls on both."""
    num_tokens = args.streams * output_len
    alone, alone_cpu, served, served_cpu, client_cpu, events = [], [], [], [], [], []
    server = start(args, backend, args.streams)
    stream_all(server, args.streams, args.input_len, 64, args.read_every)
    for repetition in range(args.repetitions):
        _, short_cpu = engine_alone(args, backend, output_len, 1)
        long, long_cpu = engine_alone(args, backend, output_len, 1 + EXTRA_RUNS)
        alone.append(long["results"]["output_tokens_per_second"]["median"])
        alone_cpu.append((long_cpu - short_cpu) / (EXTRA_RUNS * num_tokens) * 1e6)
        own, cpu = time.process_time(), server.cpu_seconds()
        done, seconds = stream_all(server, args.streams, args.input_len, output_len,
                                   args.read_every, 1000 * (repetition + 1))
        cpu, own = server.cpu_seconds() - cpu, time.process_time() - own
        tokens = [stream.num_tokens() for stream in done]
        assert tokens == [output_len] * args.streams, "not all streams were answered whole"
        served.append(num_tokens / seconds)
        served_cpu.append(cpu / num_tokens * 1e6)
        client_cpu.append(own / num_tokens * 1e6)
        events.append(sum(stream.num_events for stream in done) / num_tokens)
    code = server.stop()
    server.remove()
    ratios = [s / a for s, a in zip(served, alone)]
    return {
        "streams": args.streams, "input_len": args.input_len, "output_len": output_len,
        "backend": " ".join(backend), "repetitions": args.repetitions, "exit_code": code,
        "engine_tokens_per_second": spread(alone), "server_tokens_per_second": spread(served),
        "wall_ratio": spread(ratios),
        "engine_cpu_us_per_token": spread(alone_cpu), "server_cpu_us_per_token": spread(served_cpu),
        "client_cpu_us_per_token": spread(client_cpu), "events_per_token": spread(events),
    }


def spread(values):
    round_to = 4 if max(values) < 100 else 0
    return {"median": round(statistics.median(values), round_to),
            "min": round(min(values), round_to), "max": round(max(values), round_to)}


PARTS = {
    "memory": memory, "streams": streams,
    "null": lambda args: compare(args, NULL, args.output_len),
    "cpu": lambda args: compare(args, CPU, args.output_len // 4),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cairn", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--stream-tokens", type=int, default=6000)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--input-len", type=int, default=16)
    parser.add_argument("--output-len", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--read-every", type=float, default=10.0, metavar="MS")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = {part: PARTS[part](args) for part in args.part or PARTS}
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        with open(args.json, "w") as file:
            file.write(text + "\n")
    is_whole = result.get("streams", {}).get("answered_whole", args.connections) == args.connections
    codes = [part["exit_code"] for part in result.values()]
    sys.exit(0 if is_whole and not any(codes) else 1)


if __name__ == "__main__":
    main()
