"""What is large, what is many, and what is slow: the gate holds none of it in memory, and serves others meanwhile."""

import os
import re
import resource
import socket
import subprocess
import time
from pathlib import Path

from curl import Curl

GIB = 1 << 30
MIB = 1 << 20
GROWTH_MAX = 32 * MIB
CONNECTIONS = 10_000


def memory(gate, field="VmRSS"):
    status = Path(f"/proc/{gate.gate.pid}/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M).group(1)) * 1024


def growth(gate, work):
    """By how many bytes the gate's memory grew at most during `work`."""
    Path(f"/proc/{gate.gate.pid}/clear_refs").write_text("5")
    before = memory(gate)
    work()
    return memory(gate, "VmHWM") - before


def large(house, auth):
    """A gibibyte down, and one up, with a length and without."""
    whole = house.folder / "whole"
    with open(whole, "wb") as file:
        os.truncate(file.fileno(), GIB)

    def down(version):
        got = Curl(version, *auth, "--max-time", "90", "-o", "/dev/null", "-w", "%{stderr}size=%{size_download}\n", house.url(f"bytes/{GIB}"))
        assert f"size={GIB}" in got.log, got.log[-500:]

    def up(version, source):
        with open(whole, "rb") as given:
            command = ["curl", "-sS", "--max-time", "90", version, *auth, "-T", source, house.url("sink")]
            got = subprocess.run(command, stdin=given, capture_output=True, timeout=100)
        assert got.stdout == str(GIB).encode(), got

    for version in ("--http1.1", "--http2-prior-knowledge"):
        for name, work in (
            ("down", lambda: down(version)), ("up", lambda: up(version, str(whole))), ("up in parts", lambda: up(version, "-")),
        ):
            began = time.monotonic()
            grown = growth(house.clear, work)
            print(f"transport: 1 GiB {name}, {version[2:]}: {time.monotonic() - began:.1f} s, memory grew by {grown / MIB:.1f} MiB")
            assert grown < GROWTH_MAX, "a body is held in memory"


def request(house, what="told"):
    return f"GET /users/user-1/{what} HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {house.token}\r\n\r\n".encode()


def connect(house):
    return socket.create_connection(("127.0.0.1", house.clear.port), timeout=20)


def good(house, auth):
    """Somebody else's requests."""
    began = time.monotonic()
    got = Curl("--http1.1", *auth, *[house.url("told")] * 50)
    assert [it["status"] for it in got.all] == ["200"] * 50, got.all
    return time.monotonic() - began


def many(house, auth):
    """Connections that have had a request and are idle."""
    count = min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    before, idle = memory(house.clear), []
    try:
        for _ in range(count):
            idle.append(connect(house))
            idle[-1].sendall(request(house))
            assert idle[-1].recv(4096).startswith(b"HTTP/1.1 200")
        open_now = house.clear.metric("portcullis_connections")
        each = (memory(house.clear) - before) / count
        took = good(house, auth)
    finally:
        for connection in idle:
            connection.close()
    print(f"transport: {open_now:.0f} idle connections, {each / 1024:.1f} KiB each; 50 requests beside them took {took:.2f} s")
    assert open_now >= count and each < 64 * 1024, "a connection costs too much"


def slow(house, auth):
    """Heads and bodies that come a byte at a time, and answers that nobody reads: all are let go, and nobody waits for them."""
    body = request(house, "sink").replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\ncontent-length: 1000\r\n\r\n")

    def work():
        slow = [connect(house) for _ in range(900)]
        for index, connection in enumerate(slow):
            connection.sendall((b"GET /users/user-1/told HTTP/1.1\r\nx: ", body, request(house, f"bytes/{GIB}"))[index % 3])
        deadline = time.monotonic() + 60
        while house.clear.metric("portcullis_connections") > 10:
            assert time.monotonic() < deadline, "slow connections are never let go"
            good(house, auth)
            for index, connection in enumerate(slow):
                if index % 3 == 0:
                    try:
                        connection.send(b"x")
                    except OSError:
                        pass
        for connection in slow:
            connection.close()

    began = time.monotonic()
    grown = growth(house.clear, work)
    print(f"transport: 900 slow connections let go after {time.monotonic() - began:.1f} s, memory grew by {grown / MIB:.1f} MiB")
    assert grown < 900 * 256 * 1024, "slow connections cost too much"


def run(house):
    auth = ["-H", f"Authorization: Bearer {house.token}"]
    for check in (large, many, slow):
        check(house, auth)
