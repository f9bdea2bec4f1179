"""Reload under load; see run.sh."""

import base64
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

SECONDS = int(os.environ.get("SECONDS_EACH", "4"))
POLICIES = int(os.environ.get("POLICIES", "10000"))
ROUNDS = 3
ISSUER = "https://issuer.example"


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(folder, *arguments, given=None):
    return subprocess.run(["openssl", *arguments], cwd=folder, input=given, check=True, capture_output=True).stdout


def key_and_token(folder):
    """A key set, and a token that its key has signed."""
    openssl(folder, "genpkey", "-algorithm", "RSA", "-out", "key.pem")
    modulus = openssl(folder, "rsa", "-in", "key.pem", "-noout", "-modulus").decode().strip().split("=")[1]
    key = {"kty": "RSA", "kid": "k", "use": "sig", "alg": "RS256", "n": b64(bytes.fromhex(modulus)), "e": "AQAB"}
    now = int(time.time())
    claims = {
        "iss": ISSUER, "aud": "api", "client_id": "agent-1", "sub": "agent-1", "scope": "crossDomainService/read",
        "callerApp": "ExampleChatApplication", "iat": now, "exp": now + 3600,
        "onBehalfOf": {"sub": "user-1", "username": "jane", "groups": []},
    }
    header = {"alg": "RS256", "typ": "JWT", "kid": "k"}
    body = ".".join(b64(json.dumps(part).encode()) for part in (header, claims))
    signature = openssl(folder, "dgst", "-sha256", "-sign", "key.pem", given=body.encode())
    return {"keys": [key]}, f"{body}.{b64(signature)}"


def policies(version):
    """As many as there are to be, none of which applies but the repository's own."""
    one = '@id("p{0}") permit (principal == Agent::"agent-{0}x{1}", action, resource);\n'
    return "".join(one.format(number, version) for number in range(POLICIES))


class Gate:
    def __init__(self, binary, folder):
        self.folder = folder
        self.port, self.admin, upstream = free_port(), free_port(), free_port()
        root = Path(__file__).resolve().parents[3]
        keys, self.token = key_and_token(folder)
        (folder / "keys.json").write_text(json.dumps(keys))
        (folder / "policies" / "many").mkdir(parents=True)
        for name in ("schema.cedarschema", "users.cedar"):
            (folder / "policies" / name).write_text((root / "policies" / name).read_text())
        self.change(0)
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/nginx.pid; error_log stderr error; worker_processes 1;\n"
            "events { worker_connections 256; }\n"
            f"http {{ access_log off; server {{ listen 127.0.0.1:{upstream}; location / {{ return 200 'ok'; }} }} }}\n"
        )
        (folder / "config.yaml").write_text(
            f"listen: 127.0.0.1:{self.port}\nadmin: 127.0.0.1:{self.admin}\n"
            f"upstream: {{ url: 'http://127.0.0.1:{upstream}' }}\nissuers:\n"
            f"  - oidc_generic: {{ issuer: '{ISSUER}', audiences: [api], jwks_file: keys.json }}\nroutes:\n"
            "  - { methods: [GET], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"',\n"
            "      attributes: { owner: 'User::\"{path.id}\"' } }\n"
        )
        nginx = ["/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else "nginx", "-p", str(folder)]
        self.upstream = subprocess.Popen([*nginx, "-c", str(folder / "nginx.conf")])
        with open(folder / "records.jsonl", "w") as out, open(folder / "log.jsonl", "w") as log:
            command = [binary, "serve", "--config", str(folder / "config.yaml")]
            self.gate = subprocess.Popen(command, stdout=out, stderr=log)

    def change(self, version):
        new = self.folder / "policies" / "new"
        new.write_text(policies(version))
        new.rename(self.folder / "policies" / "many" / "many.cedar")

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))

    def reloads(self):
        return self.metric('portcullis_reloads_total{outcome="good"}')

    def wait_until_ready(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline and self.gate.poll() is None, (self.folder / "log.jsonl").read_text()
                time.sleep(0.05)

    def load(self):
        """Starts a round of load."""
        url = f"http://127.0.0.1:{self.port}/users/user-1/data"
        load = ["wrk", "-t1", "-c8", f"-d{SECONDS}s", "--latency", "-H", f"Authorization: Bearer {self.token}", url]
        return subprocess.Popen(load, stdout=subprocess.PIPE, text=True)

    def end(self):
        for process in (self.gate, self.upstream):
            process.send_signal(signal.SIGTERM)
        for process in (self.gate, self.upstream):
            process.wait(timeout=60)


def figures(load):
    text, _ = load.communicate(timeout=SECONDS + 60)
    assert load.returncode == 0, text
    failures = re.findall(r"Non-2xx.*|Socket errors.*", text)
    assert not failures, f"requests failed: {failures}\n{text}"
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    return rate, float(p99.group(1)) * {"us": 1, "ms": 1000, "s": 1_000_000}[p99.group(2)]


def main():
    with tempfile.TemporaryDirectory() as name:
        gate = Gate(sys.argv[1], Path(name))
        try:
            gate.wait_until_ready()
            figures(gate.load())
            ratios, took = [], []
            for round in range(1, ROUNDS + 1):
                quiet_rate, quiet = figures(gate.load())
                before, load = gate.reloads(), gate.load()
                time.sleep(1)
                gate.change(round)
                began = time.monotonic()
                while gate.reloads() == before:
                    assert time.monotonic() - began < 60, "the change is never in force"
                    time.sleep(0.02)
                took.append(time.monotonic() - began)
                rate, busy = figures(load)
                ratios.append(busy / quiet)
                print(
                    f"round {round}: {POLICIES} policies in force after {took[-1]:.2f} s; p99 {quiet:.0f} -> {busy:.0f} us "
                    f"({ratios[-1]:.2f}x), {quiet_rate:.0f} -> {rate:.0f} requests/s, none failed"
                )
            print(
                f"reload: {statistics.median(took):.2f} s from the change of a file to its being in force (looking and settling "
                f"included), p99 {statistics.median(ratios):.2f}x that of quiet rounds, medians of {ROUNDS}"
            )
            # Far from what is usual, for machines are shared: these fail for what has gone wrong, not for what is slow.
            assert statistics.median(took) < 6, "reloads take too long"
            assert statistics.median(ratios) < 5, "requests wait for reloads"
        finally:
            gate.end()


main()
