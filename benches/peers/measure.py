"""What is measured of a program at work: the processor's time and the memory that the kernel counts for it and for what it has started,
and how long its answers take. It runs on one core, and all that asks it or is asked by it on another."""

import contextlib
import os
import platform
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
PROXY_CORE, LOAD_CORE = "0", "1"
OURS = "/users/user-1/data"
OTHERS = "/users/user-2/data"
START_MAX_S = 120


@dataclass(frozen=True)
class Case:
    """What is asked, and what the answer must be. `cold` asks with a token of its own each time; `think_ms` rests between requests."""

    name: str
    target: str = OURS
    algorithm: str = "RS256"
    connections: int = 64
    status: int = 200
    cold: bool = False
    forged: bool = False
    plain: bool = False
    method: str = "GET"
    body_bytes: int = 0
    large: bool = False
    think_ms: int = 0


@dataclass
class Round:
    """A round of load: how many requests, µs of the processor for each, how many a second, and latencies in µs with how many had each."""

    requests: int
    cpu_us: float
    rate: float
    latencies: dict = field(default_factory=dict)


def percentile(latencies, part):
    """In ms, of latencies with how many had each."""
    due = sum(latencies.values()) * part
    for us, count in sorted(latencies.items()):
        due -= count
        if due <= 0:
            return us / 1000
    return None


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def allow_many_files():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def family(root):
    """A process and those that it started."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            rest = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(rest[1]), []).append(int(stat.parent.name))
    found, new = [], [root]
    while new:
        process = new.pop()
        found.append(process)
        new += children.get(process, [])
    return found


def cpu_seconds(root):
    rest = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in family(root)]
    return sum(int(it[11]) + int(it[12]) for it in rest) / TICKS


def memory_mib(root, what="VmRSS"):
    status = (Path(f"/proc/{process}/status").read_text() for process in family(root))
    return sum(int(re.search(rf"{what}:\s+(\d+) kB", it).group(1)) for it in status) / 1024


def wrk(port, case, seconds, **environment):
    """The command and environment of a load."""
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "--latency", "--timeout", "20s",
               "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{port}"]
    said = {"TARGET": case.target, "METHOD": case.method, "LARGE": "1" if case.large else None,
            "BODY_BYTES": case.body_bytes or None, "THINK_MS": case.think_ms or None, **environment}
    return {"args": command, "env": {**os.environ, **{name: str(value) for name, value in said.items() if value is not None}}}


def read(case, text, who="the gate"):
    """Rate, requests and latencies that wrk tells, if every answer was as it must be."""
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    refused = int(refused.group(1)) if refused else 0
    expected = 0 if case.status == 200 else requests
    if refused != expected or "Socket errors" in text or not requests:
        sys.exit(f"{who}, {case.name}: {refused} of {requests} refused, {expected} should be:\n{text[:1000]}")
    latencies = {int(us): int(count) for us, count in re.findall(r"^latency (\d+) (\d+)$", text, re.M)}
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)), requests, latencies


class Running:
    """A program at work: as soon as `token` lets somebody through, or where it is a mere proxy, anybody."""

    def __init__(self, command, port, folder, token=None, environment=None, cores=PROXY_CORE):
        self.port, self.folder, self.log = port, folder, open(folder / "log", "w")
        began = time.monotonic()
        self.process = subprocess.Popen(
            ["taskset", "-c", cores, *command], stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        while self.answer(token) != 200:
            if self.process.poll() is not None or time.monotonic() > began + START_MAX_S:
                self.end()
                sys.exit(f"{command[0]} does not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.001)
        self.start_ms = (time.monotonic() - began) * 1000
        self.idle_mib = memory_mib(self.process.pid)

    def answer(self, token):
        with contextlib.suppress(OSError):
            return self.ask(OURS, token)

    def ask(self, target, token=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{target}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def load(self, case, seconds, **environment):
        """A round. One in which nothing at all was answered, and nothing failed, says only that the machine was busy: then a longer one."""
        for seconds in (seconds, 3 * seconds, 10 * seconds):
            before, load = cpu_seconds(self.process.pid), wrk(self.port, case, seconds, **environment)
            try:
                done = subprocess.run(**load, capture_output=True, text=True, timeout=seconds + 30, check=False)
            except subprocess.TimeoutExpired:
                continue
            cpu = cpu_seconds(self.process.pid) - before
            if done.returncode:
                sys.exit(f"{self.folder.name}, {case.name}: {done.stderr}")
            if " 0 requests in" not in done.stdout or "Socket errors" in done.stdout:
                rate, requests, latencies = read(case, done.stdout, self.folder.name)
                return Round(requests, cpu * 1e6 / requests, rate, latencies)
        sys.exit(f"{self.folder.name}, {case.name}: no answer")

    def memory(self, what="VmRSS"):
        return memory_mib(self.process.pid, what)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def rest(self):
        """Until what it does when it has started is done: a fifth of a second in which it does nothing, or ten in all."""
        for _ in range(50):
            before = cpu_seconds(self.process.pid)
            time.sleep(0.2)
            if cpu_seconds(self.process.pid) == before:
                return

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


@contextlib.contextmanager
def service(folder):
    """The nginx that everything forwards to; gives its port."""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/nginx.pid; error_log stderr error; worker_processes 1;\n"
        "worker_rlimit_nofile 20000; events { worker_connections 16384; }\n"
        "http { access_log off; keepalive_requests 1000000; client_max_body_size 2m; client_body_buffer_size 2m;\n"
        f"  server {{ listen 127.0.0.1:{port} backlog=8192; root {folder}/www;\n"
        f"    location / {{ if ($http_x_large) {{ rewrite ^ /large last; }} return 200 '{'a' * 200}'; }}\n"
        "    location = /large { internal; } } }\n"
    )
    (folder / "www").mkdir()
    (folder / "www" / "large").write_bytes(b"a" * 1_000_000)
    process = subprocess.Popen(["taskset", "-c", LOAD_CORE, "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        for _ in range(1000):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


def machine():
    model = re.search(r"model name\s+: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}"


def middle(values):
    return statistics.median(values)
