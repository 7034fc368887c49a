"""What was measured, as text for people and as JSON. Nothing that was left out or failed stays untold."""

import os
import platform
import statistics

from engines import BATCHED, DECODE, PREFILL, TYPES

# More than this share of all cores used by others, and a figure is marked.
NOISE = 0.10


def machine():
    """The processor, cores, memory and system, as Linux names them."""
    with open("/proc/cpuinfo", encoding="utf-8") as cpus:
        names = (line.split(":", 1)[1].strip() for line in cpus if line.startswith("model name"))
        name = next(names, platform.machine())
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores, {memory_bytes / 2**30:.0f} GiB, {platform.system()} {platform.release()}"


def load():
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


class Report:
    """Samples by engine, type and threads, in the order of rounds; and what there is to say of them."""

    def __init__(self, options):
        self.options = options
        self.lines = [
            ("machine", machine()),
            ("load average at start", load()),
            ("rounds", f"{options.rounds}, all engines in each, in turns; median (least to most)"),
            ("lengths", f"prefill {options.input_len} tokens; decode {options.output_len} tokens after a prompt of 16"),
        ]
        self.commands = {}
        self.left_out = []
        self.failures = []
        self.samples = []

    def told(self, name, text):
        self.lines.append((name, text))

    def add(self, engine, dtype, threads, round_idx, figures, others):
        row = {"engine": engine, "type": dtype, "threads": threads, "round": round_idx, "others": others}
        self.samples.append(row | {"tokens_per_second": figures})

    def _of(self, engine, dtype, threads, figure):
        """Round -> tokens per second; and the largest share that others used meanwhile."""
        rows = [row for row in self.samples if (row["engine"], row["type"], row["threads"]) == (engine, dtype, threads)]
        rows = [row for row in rows if figure in row["tokens_per_second"]]
        others = max((row["others"] for row in rows), default=0.0)
        return {row["round"]: row["tokens_per_second"][figure] for row in rows}, others

    def comparisons(self):
        """One for each figure that Cairn and a peer both have."""
        peers = list(dict.fromkeys(row["engine"] for row in self.samples if row["engine"] != "cairn"))
        for dtype in TYPES:
            for threads in self.options.threads:
                for figure in (PREFILL, DECODE, BATCHED):
                    ours, our_others = self._of("cairn", dtype, threads, figure)
                    for peer in peers:
                        theirs, their_others = self._of(peer, dtype, threads, figure)
                        if ours and theirs:
                            yield {
                                "type": dtype,
                                "threads": threads,
                                "figure": figure,
                                "peer": peer,
                                "cairn_tokens_per_second": spread(ours.values()),
                                "peer_tokens_per_second": spread(theirs.values()),
                                "ratio": ratio(ours, theirs),
                                "others": max(our_others, their_others),
                            }

    def to_json(self):
        return {
            "about": dict(self.lines),
            "commands": self.commands,
            "left_out": self.left_out,
            "failures": self.failures,
            "comparisons": list(self.comparisons()),
            "samples": self.samples,
        }

    def to_text(self):
        parts = ["\n".join(f"{name}: {text}" for name, text in self.lines), _listed("commands", self._commands())]
        rows = list(self.comparisons())
        parts.append(_table(rows) if rows else "nothing to compare was measured")
        if any(row["others"] > NOISE for row in rows):
            parts.append(
                f"* other processes used more than {NOISE:.0%} of all cores in some round: do not publish these.\n"
                "  Engines whose threads wait for each other by spinning lose most by it."
            )
        parts.append(_listed("left out", self.left_out))
        if self.failures:
            parts.append(_listed("FAILED", self.failures))
        return "\n\n".join(parts)

    def _commands(self):
        return [f"{engine}: {command}" for engine, commands in self.commands.items() for command in commands]


def spread(values):
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(ours, theirs):
    """Of the medians; least and most are those of the rounds that both have."""
    rounds = [ours[idx] / theirs[idx] for idx in ours if idx in theirs]
    median = statistics.median(ours.values()) / statistics.median(theirs.values())
    return {"median": median, "min": min(rounds, default=median), "max": max(rounds, default=median)}


def _shown(values, digits):
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f} to {values['max']:.{digits}f})"


def _table(rows):
    head = ["Type", "Threads", "Figure", "Peer", "Cairn, tokens/s", "Peer, tokens/s", "Cairn / peer", "Others"]
    cells = [head, [":--", "--:", ":--", ":--", "--:", "--:", "--:", "--:"]]
    for row in rows:
        mark = " *" if row["others"] > NOISE else ""
        cells.append([
            row["type"],
            str(row["threads"]),
            row["figure"],
            row["peer"],
            _shown(row["cairn_tokens_per_second"], 1),
            _shown(row["peer_tokens_per_second"], 1),
            _shown(row["ratio"], 2),
            f"{row['others']:.0%}{mark}",
        ])
    widths = [max(len(line[idx]) for line in cells) for idx in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _listed(title, items):
    return "\n".join([f"{title}:", *(f"  {item}" for item in items or ["nothing"])])
