"""What runs of the release binary share: a gate, an nginx behind it, keys and tokens. Everything is on loopback."""

import base64
import json
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ISSUER = "https://issuer.example"


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(folder, *arguments, given=None):
    return subprocess.run(["openssl", *arguments], cwd=folder, input=given, check=True, capture_output=True).stdout


def nginx(folder):
    """The command that serves by `nginx.conf` in `folder`."""
    program = "/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else "nginx"
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]


class Issuer:
    """A key in `folder`, whose set is in `keys.json`, and tokens that it signs."""

    def __init__(self, folder):
        self.folder = folder
        openssl(folder, "genpkey", "-algorithm", "RSA", "-out", "key.pem")
        modulus = openssl(folder, "rsa", "-in", "key.pem", "-noout", "-modulus").decode().strip().split("=")[1]
        key = {"kty": "RSA", "kid": "k", "use": "sig", "alg": "RS256", "n": b64(bytes.fromhex(modulus)), "e": "AQAB"}
        (folder / "keys.json").write_text(json.dumps({"keys": [key]}))

    def token(self, **over):
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": "api", "client_id": "agent-1", "sub": "agent-1", "scope": "crossDomainService/read",
            "callerApp": "ExampleChatApplication", "iat": now, "exp": now + 3600,
            "onBehalfOf": {"sub": "user-1", "username": "jane", "groups": []}, **over,
        }
        header = {"alg": "RS256", "typ": "JWT", "kid": "k"}
        body = ".".join(b64(json.dumps(part).encode()) for part in (header, claims))
        signature = openssl(self.folder, "dgst", "-sha256", "-sign", "key.pem", given=body.encode())
        return f"{body}.{b64(signature)}"


class Gate:
    """The gate at work in `folder`, in front of an nginx, or of `upstream` as its configuration is to name it. `config` is what
    that says beside addresses and issuer, `locations` what nginx answers, `keys` where the issuer's are. Policies stand in `folder` already; records go to
    `records.jsonl`."""

    def __init__(self, binary, folder, config, upstream=None, locations="location / { return 200 'ok'; }", keys="jwks_file: keys.json"):
        self.folder = folder
        self.port, self.admin = free_port(), free_port()
        self.processes = []
        upstream = upstream or f"{{ url: 'http://127.0.0.1:{self.nginx(folder, locations)}' }}"
        (folder / "config.yaml").write_text(
            f"listen: 127.0.0.1:{self.port}\nadmin: 127.0.0.1:{self.admin}\n"
            f"upstream: {upstream}\nissuers:\n"
            f"  - oidc_generic: {{ issuer: '{ISSUER}', audiences: [api], {keys} }}\nroutes:\n"
            "  - { methods: [GET], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"',\n"
            "      attributes: { owner: 'User::\"{path.id}\"' } }\n" + config
        )
        self.start(binary)

    def start(self, binary):
        with open(self.folder / "records.jsonl", "a") as out, open(self.folder / "log.jsonl", "a") as log:
            command = [binary, "serve", "--config", str(self.folder / "config.yaml")]
            self.gate = subprocess.Popen(command, stdout=out, stderr=log)
        self.processes.insert(0, self.gate)

    def restart(self, binary):
        """Stops the gate, which may take its time, and starts it."""
        self.gate.send_signal(signal.SIGTERM)
        assert self.gate.wait(timeout=60) == 0
        self.start(binary)

    def nginx(self, folder, locations):
        """The port of an nginx that answers so."""
        port = free_port()
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/nginx.pid; error_log stderr error; worker_processes 1;\n"
            "events { worker_connections 256; }\n"
            f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; {locations} }} }}\n"
        )
        self.processes.append(subprocess.Popen(nginx(folder)))
        return port

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))

    def wait_until_ready(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline and self.gate.poll() is None, (self.folder / "log.jsonl").read_text()
                time.sleep(0.05)

    def end(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(timeout=60)
