"""The built program as processes: clusters of `baton up`, and single ones of its commands.

BATON_PROGRAM names another build's, BATON_SERVE_FLAGS what every instance is told besides, such as "--device cuda --gpu-id-step 0".
"""
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BATON = Path(os.environ.get("BATON_PROGRAM", ROOT / "build" / "release" / "bin" / "baton"))
SERVE_FLAGS = shlex.split(os.environ.get("BATON_SERVE_FLAGS", ""))
MODELS = {"mla": ROOT / "models" / "tiny-mla", "gqa": ROOT / "models" / "tiny-gqa"}


class Cluster:
    """`baton up` with an API on a free port; `url` answers once the object exists."""

    def __init__(self, *flags, log, stderr=None):
        self.log_path = log
        self.log = open(log, "w+")
        self.process = subprocess.Popen([str(BATON), "up", "--port", "0", *flags, *SERVE_FLAGS], stdout=subprocess.PIPE, stderr=stderr or self.log, text=True)
        self.summary, self.url = "", None
        for line in self.process.stdout:
            self.summary += line
            found = re.search(r"API: (http://\S+)", line)
            if found:
                self.url = found.group(1)
            if "ready in" in line:
                return
        self.process.wait()
        raise RuntimeError(f"the cluster did not start ({flags}):\n{Path(log).read_text()}")

    def instances(self, role):
        """URLs of the instances whose line in the summary names `role`."""
        return re.findall(rf"{role}\S*\s.*?(http://\S+?),? ", self.summary)

    def pids(self):
        return {name: int(pid) for name, pid in re.findall(r"^\s+(\S+).*\(pid (\d+)\)", self.summary, re.M)}

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        self.log.close()
        return code


class Process:
    """One `baton serve` or `baton router`; `url` answers once the object exists."""

    def __init__(self, command, *flags, log, stderr=None, port=0):
        read, write = os.pipe()
        self.log = open(log, "w+")
        flags = [*map(str, flags), *(SERVE_FLAGS if command == "serve" else [])]
        self.process = subprocess.Popen([str(BATON), command, "--port", str(port), *flags, "--report-fd", str(write)], pass_fds=[write], stderr=stderr or self.log)
        os.close(write)
        with os.fdopen(read) as lines:
            ready = next((line for line in lines if line.startswith("ready")), None)
        if ready is None:
            self.process.wait()
            raise RuntimeError(f"baton {command} {flags} did not start:\n{Path(log).read_text()}")
        _, port, self.bootstrap_port = ready.split()
        self.port = int(port)
        self.url = f"http://127.0.0.1:{port}"

    def signal(self, which):
        self.process.send_signal(which)

    def ended(self, seconds=30):
        """The exit code, waited for."""
        return self.process.wait(timeout=seconds)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
