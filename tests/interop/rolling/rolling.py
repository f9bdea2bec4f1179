"""Gates that are started anew under load; see run.sh."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ROOT, Gate, Issuer, free_port, nginx

UPGRADES = 4
SECONDS = 8


def gate(binary, folder, name, config=""):
    home = folder / name
    home.mkdir()
    shutil.copytree(ROOT / "policies", home / "policies")
    shutil.copy(folder / "keys.json", home)
    it = Gate(binary, home, config)
    it.wait_until_ready()
    return it


def wrk(port, token, *more):
    load = ["wrk", "-t1", "-c16", f"-d{SECONDS}s", "-H", f"Authorization: Bearer {token}", *more]
    return subprocess.Popen([*load, f"http://127.0.0.1:{port}/users/user-1/data"], stdout=subprocess.PIPE, text=True)


def requests(load):
    """How many requests were answered, all of them well."""
    text, _ = load.communicate(timeout=SECONDS + 60)
    assert load.returncode == 0 and not re.search(r"Non-2xx|Socket errors", text), text
    return int(re.search(r"(\d+) requests in", text).group(1))


class Watched:
    """Asks `url` again and again on new connections, as a probe does."""

    def __init__(self, url):
        self.url, self.asked, self.failed, self.done = url, 0, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.done.is_set():
            self.asked += 1
            try:
                urllib.request.urlopen(self.url, timeout=5).read()
            except OSError as error:
                self.failed.append(repr(error))
            time.sleep(0.01)

    def end(self):
        self.done.set()
        self.thread.join()
        assert self.asked > 50 and not self.failed, (self.asked, self.failed)


def successor(it, count):
    """The process of the gate that took over, the `count`th to do so."""
    deadline = time.monotonic() + 30
    while True:
        log = (it.folder / "log.jsonl").read_text()
        found = re.findall(r'"process":(\d+)', log)
        if len(found) >= count:
            return int(found[count - 1])
        assert time.monotonic() < deadline, log
        time.sleep(0.02)


def upgrades(binary, folder, token):
    """The program is started anew on the same sockets, several times, under load in both versions of HTTP."""
    it = gate(binary, folder, "upgraded")
    process = it.gate.pid
    try:
        watched = Watched(f"http://127.0.0.1:{it.admin}/readyz")
        load = wrk(it.port, token)
        for count in range(1, UPGRADES + 1):
            time.sleep(SECONDS / (UPGRADES + 2))
            os.kill(process, signal.SIGUSR2)
            process = successor(it, count)
        answered = requests(load)
        watched.end()
        assert it.gate.wait(timeout=40) == 0
    finally:
        os.kill(process, signal.SIGTERM)
        it.end()
    print(f"rolling: {UPGRADES} upgrades, {answered} requests, {watched.asked} probes, none failed")


def upgrade_http2(binary, folder, token):
    """The streams under way when a connection is told to go are answered. (h2load then ends: it opens no other one.)"""
    it = gate(binary, folder, "http2")
    process = it.gate.pid
    try:
        load = ["h2load", "-D", "5", "-c", "8", "-m", "8", "-t", "1", "-H", f"authorization: Bearer {token}"]
        url = f"http://127.0.0.1:{it.port}/users/user-1/data"
        load = subprocess.Popen([*load, url], stdout=subprocess.PIPE, text=True)
        time.sleep(1.5)
        os.kill(process, signal.SIGUSR2)
        process = successor(it, 1)
        text, _ = load.communicate(timeout=60)
        started, done, good = re.search(r"(\d+) started, (\d+) done, (\d+) succeeded", text).groups()
        assert started == done == good and int(good) > 100 and f"{good} 2xx" in text, text
    finally:
        os.kill(process, signal.SIGTERM)
        it.end()
    print(f"rolling: an upgrade under HTTP/2, {good} requests, none lost")


class Balancer:
    """An nginx that sends to the gates that say they are ready, and notices within half a second."""

    def __init__(self, folder, gates):
        self.folder, self.gates, self.port, self.ready = folder / "balancer", gates, free_port(), None
        self.folder.mkdir()
        self.look()
        self.nginx = subprocess.Popen(nginx(self.folder))
        deadline = time.monotonic() + 20
        while not self.listens():
            assert time.monotonic() < deadline and self.nginx.poll() is None
            time.sleep(0.02)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def listens(self):
        with socket.socket() as it:
            return it.connect_ex(("127.0.0.1", self.port)) == 0

    def look(self):
        def is_ready(it):
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{it.admin}/readyz", timeout=2).status == 200
            except OSError:
                return False

        ready = [it.port for it in self.gates if is_ready(it)]
        if ready == self.ready:
            return False
        servers = "".join(f"server 127.0.0.1:{port} max_fails=0; " for port in ready)
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder}/nginx.pid; error_log stderr crit; worker_processes 1;\n"
            "events { worker_connections 512; }\n"
            f"http {{ access_log off; upstream gates {{ {servers} keepalive 16; }}\n"
            f"server {{ listen 127.0.0.1:{self.port}; location / {{ proxy_pass http://gates; proxy_next_upstream off;\n"
            "proxy_http_version 1.1; proxy_set_header Connection ''; } } }\n"
        )
        self.ready = ready
        return True

    def run(self):
        while not self.done.wait(0.25):
            if self.look():
                self.nginx.send_signal(signal.SIGHUP)

    def end(self):
        self.done.set()
        self.thread.join()
        self.nginx.terminate()
        self.nginx.wait(timeout=20)


def restarts(binary, folder, token):
    """One gate after the other is stopped and started, behind a balancer that never tries a second time."""
    drain = "drain: { delay_ms: 1500 }\n"
    gates = [gate(binary, folder, name, drain) for name in ("one", "two")]
    balancer = Balancer(folder, gates)
    try:
        # A connection for each request: nginx closes idle ones when it is told of a change, ready or not.
        load = wrk(balancer.port, token, "-H", "Connection: close")
        for index in range(len(gates)):
            time.sleep(0.5)
            gates[index].restart(binary)
            gates[index].wait_until_ready()
            time.sleep(0.5)
        answered = requests(load)
    finally:
        balancer.end()
        for it in gates:
            it.end()
    print(f"rolling: {len(gates)} gates restarted behind a balancer, {answered} requests, none failed")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = Issuer(folder).token()
        upgrades(sys.argv[1], folder, token)
        upgrade_http2(sys.argv[1], folder, token)
        restarts(sys.argv[1], folder, token)


main()
