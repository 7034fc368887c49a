"""The program under load: started, looked at from outside, stopped. Linux only."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60


class Server:
    """One `cairn serve` on a free port, with a state folder of its own."""

    def __init__(self, cairn, model, flags, folder=None):
        self.folder = folder or tempfile.mkdtemp(prefix="load-")
        self.owns_folder = folder is None
        state = os.path.join(self.folder, "state")
        command = [cairn, "serve", model, "--port", "0", "--state-dir", state, *flags]
        self.log_path = os.path.join(self.folder, "log")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.pid = self.process.pid
        self.port = None
        self.is_listening = threading.Event()
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()
        if not self.is_listening.wait(START_SECONDS) or self.port is None:
            self.process.kill()
            raise SystemExit(f"the server did not start: {self.log()[-2000:]}")
        while not self.is_ready():
            time.sleep(0.02)

    def _read_log(self):
        with open(self.log_path, "wb") as log:
            for line in self.process.stderr:
                log.write(line)
                log.flush()
                found = re.search(rb"listening on http://127\.0\.0\.1:(\d+)", line)
                if found and self.port is None:
                    self.port = int(found[1])
                    self.is_listening.set()
        self.is_listening.set()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def is_ready(self):
        try:
            self.get("/health/ready")
            return True
        except OSError:
            return False

    def get(self, path, headers=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers or {})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.read().decode()

    def metrics(self):
        """Sums of all series, by name."""
        sums = {}
        for line in self.get("/metrics").splitlines():
            if line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                name = series.split("{", 1)[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def status(self, key):
        with open(f"/proc/{self.pid}/status") as status:
            for line in status:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
        raise KeyError(key)

    def resident_bytes(self):
        return self.status("VmRSS") * 1024

    def threads(self):
        return self.status("Threads")

    def thread_names(self):
        """How many threads have which name."""
        names = {}
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            try:
                with open(f"/proc/{self.pid}/task/{thread}/comm") as name:
                    name = name.read().strip()
                names[name] = names.get(name, 0) + 1
            except OSError:
                pass
        return names

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self):
        """SIGTERM; the exit code, 0 after a stop in good order."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "killed: it had not ended within 60 s of SIGTERM"
        self.reader.join(5)
        return code

    def remove(self):
        if self.owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def run_json(command):
    """Runs a program that prints one JSON object: the object, and its CPU seconds."""
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    after = os.times()
    if done.returncode != 0:
        raise SystemExit(done.stderr.decode(errors="replace"))
    used = after.children_user - before.children_user
    used += after.children_system - before.children_system
    return json.loads(done.stdout), used
