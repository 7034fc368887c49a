"""Programs run one at a time, and what else the machine did meanwhile. Linux only: reads `/proc`."""

import os
import resource
import shlex
import subprocess
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")
# What a program may say about why it failed.
LAST_WORDS = 600


class Failed(Exception):
    """A program did not do what it was asked; the text says which, and its last words."""


class Usage:
    """The share of all cores that other processes used, from construction to `others`."""

    def __init__(self):
        self.started = time.monotonic()
        self.busy = _busy_seconds()
        self.own = _own_seconds()

    def others(self):
        seconds = (time.monotonic() - self.started) * os.cpu_count()
        used = (_busy_seconds() - self.busy) - (_own_seconds() - self.own)
        return max(0.0, used / max(seconds, 1e-9))


def _busy_seconds():
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _wait, irq, soft_irq = map(int, stat.readline().split()[1:8])
    return (user + nice + system + irq + soft_irq) / TICKS


def _own_seconds():
    """This process and its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def run(command, variables=None, timeout=None, all_output=False):
    """What a program printed to stdout, and with `all_output` to stderr after it.

    Settings of Cairn in the environment do not reach it, but for the folder of its cache: what was
    measured is all in the command.
    """
    settings = [name for name in os.environ if name.startswith("CAIRN_") and name != "CAIRN_CACHE_DIR"]
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    environment |= variables or {}
    command = [str(part) for part in command]
    shown = shlex.join(command)
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout, check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"not done after {timeout} s: {shown}") from error
    except OSError as error:
        raise Failed(f"cannot be started: {shown}: {error}") from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip())[-LAST_WORDS:]
        raise Failed(f"ended with {done.returncode}: {shown}: {words}")
    return done.stdout + (done.stderr if all_output else "")


def say(text):
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)
