"""Portcullis beside its peers: what a request costs each of them, on one core, in rounds that take turns; see run.sh."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import peers
from tokens import Issuer

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
PROXY_CORE, LOAD_CORE = "0", "1"
OURS = "/users/user-1/data"
OTHERS = "/users/user-2/data"


@dataclass
class Case:
    """What is asked, and what the answer must be. `serial` asks with a token of its own each time."""

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


CASES = [
    Case("pass-through", plain=True),
    Case("hot RS256"),
    Case("hot ES256", algorithm="ES256"),
    Case("cold RS256", cold=True),
    Case("cold ES256", algorithm="ES256", cold=True),
    Case("denied", target=OTHERS, status=403),
    Case("bad signature", forged=True, status=401),
    Case("hot, 512 connections", connections=512),
    Case("1 MB down", large=True, connections=8),
    Case("1 MB up", method="PUT", body_bytes=1_000_000, connections=8),
]


@dataclass
class Figures:
    """What was measured of a peer in a case, a value for each round."""

    cpu_us: list = field(default_factory=list)
    rate: list = field(default_factory=list)
    p99_ms: list = field(default_factory=list)


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def processes(root):
    """A process and those that it started."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(rest[1]), []).append(int(stat.parent.name))
    found, new = [], [root]
    while new:
        process = new.pop()
        found.append(process)
        new += children.get(process, [])
    return found


def cpu_seconds(root):
    """By the kernel's accounting, of the whole family."""
    total = 0
    for process in processes(root):
        rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(rest[11]) + int(rest[12])
    return total / TICKS


def memory_mib(root, what):
    total = 0
    for process in processes(root):
        status = Path(f"/proc/{process}/status").read_text()
        total += int(re.search(rf"{what}:\s+(\d+) kB", status).group(1))
    return total / 1024


class Running:
    """A peer at work."""

    def __init__(self, peer, upstream, plain=False):
        self.port = free_port()
        command = ["taskset", "-c", PROXY_CORE, *peer.command(self.port, upstream, plain)]
        self.log = open(peer.folder / "log", "w")
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=peer.environment())
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > began + 20:
                    sys.exit(f"{peer.name} does not start:\n{(peer.folder / 'log').read_text()[-2000:]}")
                time.sleep(0.002)
        self.start_ms = (time.monotonic() - began) * 1000

    def ask(self, target, token=None, method="GET", body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{target}", data=body, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def load(self, case, seconds, **environment):
        """Figures of one round of load, once what it warms up is warm."""
        command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "--latency", "--timeout", "20s",
                   "-s", str(Path(__file__).with_name("load.lua")), f"http://127.0.0.1:{self.port}"]
        environment = {**os.environ, "TARGET": case.target, "METHOD": case.method, **environment}
        if case.large:
            environment["LARGE"] = "1"
        if case.body_bytes:
            environment["BODY_BYTES"] = str(case.body_bytes)
        before = cpu_seconds(self.process.pid)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if done.returncode:
            sys.exit(f"{case.name}: {done.stderr}")
        cpu = cpu_seconds(self.process.pid) - before
        requests = int(re.search(r"(\d+) requests in", done.stdout).group(1))
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
        refused = int(refused.group(1)) if refused else 0
        expected = 0 if case.status == 200 else requests
        if refused != expected or "Socket errors" in done.stdout:
            sys.exit(f"{case.name}: {refused} of {requests} refused, {expected} should be:\n{done.stdout}")
        p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout)
        p99_ms = float(p99.group(1)) * {"us": 0.001, "ms": 1, "s": 1000}[p99.group(2)]
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1))
        return cpu * 1e6 / requests, rate, p99_ms

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def nginx(folder):
    """The service behind all of them; gives its process and its port."""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/nginx.pid; error_log stderr error; worker_processes 1;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 1000000; client_max_body_size 2m; client_body_buffer_size 2m;\n"
        f"  server {{ listen 127.0.0.1:{port}; root {folder}/www;\n"
        f"    location / {{ if ($http_x_large) {{ rewrite ^ /large last; }} return 200 '{'a' * 200}'; }}\n"
        "    location = /large { internal; } } }\n"
    )
    (folder / "www").mkdir()
    (folder / "www" / "large").write_bytes(b"a" * 1_000_000)
    command = ["taskset", "-c", LOAD_CORE, "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command)
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, port
        except OSError:
            time.sleep(0.01)
    sys.exit("nginx does not start")


def prove(peer, running, issuer):
    """Every peer decides the same, or its figures say nothing."""
    for algorithm in peer.algorithms:
        token = issuer.token(algorithm)
        told = {
            "good": (running.ask(OURS, token), 200),
            "another user's": (running.ask(OTHERS, token), 403),
            "without a token": (running.ask(OURS), 401),
            "without the scope": (running.ask(OURS, issuer.token(algorithm, scope="userData/read")), 403),
            "another app": (running.ask(OURS, issuer.token(algorithm, callerApp="Other")), 403),
            "expired": (running.ask(OURS, issuer.token(algorithm, exp=int(time.time()) - 600)), 401),
            "another issuer": (running.ask(OURS, issuer.token(algorithm, iss="https://other.example")), 401),
        }
        if algorithm == "RS256":
            told["bad signature"] = (running.ask(OURS, issuer.forged()), 401)
        wrong = {name: answer for name, answer in told.items() if answer[0] != answer[1]}
        # Some know 403 alone.
        wrong = {name: answer for name, answer in wrong.items() if not (answer[0] in (401, 403) and answer[1] in (401, 403))}
        if wrong:
            sys.exit(f"{peer.name}, {algorithm}: {wrong}")


def serves(peer, case):
    return case.algorithm in peer.algorithms and (peer.has_plain or not case.plain)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("binary")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=int, default=3)
    options.add_argument("--tokens", type=int, default=25_000, help="for a second of requests with one each")
    options.add_argument("--peers", help="names of those that are compared, as they begin; all by default")
    options.add_argument("--cases", help="the same of cases")
    options.add_argument("--express", help="a folder with what express/package-lock.json names")
    options.add_argument("--node", default="node")
    options.add_argument("--out", help="a file for the figures, in JSON")
    options = options.parse_args()
    peers.Portcullis.binary = str(Path(options.binary).resolve())
    peers.Express.home, peers.Express.node = Path(options.express or "."), options.node

    def chosen(all, names, of):
        wanted = names.lower().split(",") if names else [""]
        return [it for it in all if any(of(it).lower().startswith(name) for name in wanted)]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuer = Issuer(folder)
        cases = chosen(CASES, options.cases, lambda it: it.name)
        all_peers = []
        for kind in chosen(peers.ALL, options.peers, lambda it: it.name):
            own = folder / kind.__name__
            own.mkdir()
            for file in ("keys.json", "RS256.pem", "ES256.pem"):
                shutil.copy(folder / file, own)
            all_peers.append(kind(own))
        for algorithm in {case.algorithm for case in cases if case.cold}:
            lines = (issuer.token(algorithm, serial) for serial in range(10, 10 + options.tokens))
            (folder / f"{algorithm}.tokens").write_text("\n".join(lines) + "\n")
        service, upstream = nginx(folder)
        figures = {(peer.name, case.name): Figures() for peer in all_peers for case in cases}
        idle, peak, started = {}, {}, {}
        try:
            for peer in all_peers:
                running = Running(peer, upstream)
                prove(peer, running, issuer)
                running.end()
                print(f"{peer.name} {peer.version()} decides as it should", file=sys.stderr)
            for round_ in range(options.rounds):
                for case in cases:
                    for peer in all_peers:
                        if not serves(peer, case):
                            continue
                        running = Running(peer, upstream, case.plain)
                        try:
                            started.setdefault(peer.name, []).append(running.start_ms)
                            if not case.plain:
                                idle.setdefault(peer.name, []).append(memory_mib(running.process.pid, "VmRSS"))
                            token = issuer.forged() if case.forged else issuer.token(case.algorithm)
                            given = {"TOKENS": str(folder / f"{case.algorithm}.tokens")} if case.cold else {"TOKEN": token}
                            if not case.cold:
                                running.load(case, 1, **given)
                            measured = running.load(case, 1 if case.cold else options.seconds, **given)
                            of = figures[peer.name, case.name]
                            for values, value in zip((of.cpu_us, of.rate, of.p99_ms), measured):
                                values.append(value)
                            if not case.plain:
                                peak.setdefault(peer.name, []).append(memory_mib(running.process.pid, "VmHWM"))
                        finally:
                            running.end()
                    print(f"round {round_ + 1}: {case.name}", file=sys.stderr)
        finally:
            service.terminate()
            service.wait()
        result = {
            "date": time.strftime("%Y-%m-%d"), "machine": machine(),
            "rounds": options.rounds, "seconds": options.seconds, "tokens": options.tokens,
            "peers": [{
                "name": peer.name, "version": peer.version(),
                "idle_mib": statistics.median(idle[peer.name]), "peak_mib": max(peak[peer.name]),
                "start_ms": statistics.median(started[peer.name]),
                "cases": {case.name: vars(figures[peer.name, case.name]) for case in cases if serves(peer, case)},
            } for peer in all_peers],
        }
        if options.out:
            Path(options.out).write_text(json.dumps(result, indent=1))
        print(table(result, cases))


def machine():
    model = re.search(r"model name\s+: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}"


def table(result, cases):
    head = ["peer", *(case.name for case in cases), "MiB idle", "MiB peak", "ms to start"]
    rows = [head, ["---"] * len(head)]
    for peer in result["peers"]:
        cells = []
        for case in cases:
            values = peer["cases"].get(case.name, {}).get("cpu_us")
            cells.append(f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})" if values else "")
        rows.append([f"{peer['name']} {peer['version']}", *cells,
                     f"{peer['idle_mib']:.0f}", f"{peer['peak_mib']:.0f}", f"{peer['start_ms']:.0f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


main()
