"""What a gate, and what it stands on, do all day, asked of programs that count what they run, so that a build may be laid out by it;
see profile.sh."""

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import peers
from compare import CASES, FORGED, serves
from measure import allow_many_files, free_port, service
from tokens import Issuer

SECONDS = 3
COLD = 10_000
# Of each kind of client that speaks TLS or HTTP/2, by connections at once and streams of each.
REQUESTS, CONNECTIONS, STREAMS = 20_000, 32, 8
SECURED = "/secured/user-1/data"


class Secured(peers.Portcullis):
    """Also listens by TLS, and forwards so."""

    nginx = None
    reads = (*peers.Portcullis.reads, "ca.pem", "server.pem", "server.key")

    def configure(self, upstream):
        self.tls = free_port()
        self.routes = (f"  - {{ methods: [GET], path: '/secured/{{id}}/data', action: readOnly, upstream: secured,\n"
                       "      resource: 'UserData::\"{path.id}\"', attributes: { owner: 'User::\"{path.id}\"' } }\n")
        tls = "tls: { certificate: server.pem, private_key: { file: server.key } }"
        self.more = (f"listeners: [{{ listen: '127.0.0.1:{self.tls}', {tls} }}]\n"
                     f"upstreams: {{ secured: {{ url: 'https://localhost:{self.nginx}', tls: {{ authorities: ca.pem }}, http2: offered }} }}\n")
        return super().configure(upstream)


def certificates(folder):
    """An authority, and a server for `localhost`."""
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost")
    for arguments in [(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"),
                      (*new, *by, "-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=server")]:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@contextmanager
def secured(folder):
    """An nginx that speaks TLS and HTTP/2."""
    port = free_port()
    (folder / "tls.conf").write_text(
        f"daemon off; user root; pid {folder}/tls.pid; error_log stderr error; events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000; server {{ listen 127.0.0.1:{port} ssl http2;\n"
        f"  ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key; return 200 '{'a' * 200}'; }} }}\n")
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "tls.conf")])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(options, token, url):
    """By nghttp2's client; every answer must be good."""
    command = ["h2load", "-n", REQUESTS, "-c", CONNECTIONS, "-t", 1, *options, "-H", f"authorization: Bearer {token}", url]
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, timeout=300, check=False)
    if f" {REQUESTS} 2xx" not in done.stdout:
        sys.exit(f"{url}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main():
    peers.Portcullis.binary, peers.Floor.floor = (str(Path(path).resolve()) for path in sys.argv[1:3])
    allow_many_files()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuer = Issuer(folder)
        good = {algorithm: issuer.token(algorithm) for algorithm in ("RS256", "ES256")}
        certificates(folder)
        (folder / "forged.tokens").write_text("\n".join(issuer.forged(range(1, FORGED))) + "\n")
        for algorithm in good:
            tokens = (issuer.token(algorithm, serial) for serial in range(10, 10 + COLD))
            (folder / f"{algorithm}.tokens").write_text("\n".join(tokens) + "\n")
        with service(folder) as upstream, secured(folder) as Secured.nginx:
            for kind in (peers.Portcullis, peers.Asking, peers.Floor, peers.Stock):
                for case in (case for case in CASES if serves(kind(folder), case)):
                    given = {"TOKEN": good[case.algorithm]}
                    if case.cold or case.forged:
                        given = {"TOKENS": folder / ("forged.tokens" if case.forged else f"{case.algorithm}.tokens"), "AGAIN": "1"}
                    with kind.housed(folder).start(upstream, good["RS256"]) as running:
                        running.load(case, SECONDS, **given)
                    print(f"{kind.name}: {case.name}", file=sys.stderr)
            peer = Secured.housed(folder)
            with peer.start(upstream, good["RS256"]):
                for scheme, port in (("http", peer.port), ("https", peer.tls)):
                    for options in (["--h1"], ["-m", STREAMS]):
                        for path in (SECURED, "/users/user-1/data"):
                            ask(options, good["ES256"], f"{scheme}://127.0.0.1:{port}{path}")
                            print(f"{scheme} {' '.join(map(str, options))} {path}", file=sys.stderr)


main()
