"""The gate between real clients and real upstreams: one in the clear, and one by TLS that wants a client's certificate."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from gate import ROOT, Gate, Issuer, free_port, openssl

NGINX = """
  sendfile on; max_ranges 4;
  location ~ ^/users/[^/]+/file$ { root FOLDER/www; try_files /file =404; }
  location ~ ^/users/[^/]+/told$ { return 200 "$http_x_portcullis_user $http_authorization"; }
  location / { return 200 'ok'; }
"""

ROUTES = {"file": "GET, HEAD", "told": "GET"}
SOCKETS = {"socket": "GET"}
STREAMS = {"events": "GET", "echo": "POST", "sink": "POST, PUT", "bytes/{count}": "GET"}


def config(streams, sockets):
    def routes(of, upstream=""):
        return "".join(
            f"  - {{ methods: [{methods}], path: '/users/{{id}}/{what}', action: readOnly, resource: 'UserData::\"{{path.id}}\"',\n"
            f"      attributes: {{ owner: 'User::\"{{path.id}}\"' }}{upstream} }}\n"
            for what, methods in of.items()
        )

    return (
        routes(ROUTES) + routes(SOCKETS, ", upstream: sockets") + routes(STREAMS, ", upstream: streams")
        + f"upstreams:\n  streams: {{ url: 'http://127.0.0.1:{streams}' }}\n  sockets: {{ url: 'http://127.0.0.1:{sockets}' }}\n"
        + "limits: { connections_max: 12000, client_timeout_ms: 5000 }\n"
    )


TLS = """
tls: { certificate: server.pem, private_key: { file: server.key }, client_certificate: required, client_authorities: ca.pem }
"""


def certificates(folder):
    """An authority, a server for `localhost`, and a client."""
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    openssl(folder, *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE")
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    openssl(folder, *new, *by, *names, "-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=server")
    openssl(folder, *new, *by, "-keyout", "client.key", "-out", "client.pem", "-subj", "/CN=client")


class House:
    """Both gates and what stands behind them, in `folder`."""

    def __init__(self, binary, folder):
        self.folder = folder
        self.streams, self.sockets = free_port(), free_port()
        issuer = Issuer(folder)
        self.token = issuer.token()
        certificates(folder)
        # nginx may run as somebody else.
        folder.chmod(0o711)
        (folder / "www").mkdir()
        (folder / "www" / "file").write_bytes(bytes(range(256)) * 4096)
        self.processes = [subprocess.Popen([os.environ["NODE"], str(HERE / "upstream.mjs"), str(self.streams)])]
        said = config(self.streams, self.sockets)
        self.clear = self.gate(binary, "clear", said)
        self.tls = self.gate(binary, "tls", said + TLS)

    def gate(self, binary, name, said):
        folder = self.folder / name
        folder.mkdir()
        shutil.copytree(ROOT / "policies", folder / "policies")
        for file in ("keys.json", "server.pem", "server.key", "ca.pem"):
            shutil.copy(self.folder / file, folder / file)
        gate = Gate(binary, folder, said, locations=NGINX.replace("FOLDER", str(self.folder)))
        self.processes += gate.processes
        gate.wait_until_ready()
        return gate

    def url(self, what, user="user-1"):
        return f"http://127.0.0.1:{self.clear.port}/users/{user}/{what}"

    def tls_url(self, what, user="user-1"):
        return f"https://localhost:{self.tls.port}/users/{user}/{what}"

    @property
    def release(self):
        return f"http://127.0.0.1:{self.streams}/release"

    @property
    def headers(self):
        return {"authorization": f"Bearer {self.token}"}

    def end(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(timeout=60)
