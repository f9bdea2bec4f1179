"""Services behind the gate verify its assertions; see run.sh."""

import hashlib
import hmac
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import jwt

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from gate import ROOT, Gate, Issuer, b64, free_port, openssl

GATE, TYPE = "https://gate.example", "portcullis-assertion+jwt"
SERVICES = ["node", "python", "go", "java"]
# Those whose snippet remembers what was used.
REMEMBERING = ["node", "python"]
AUDIENCES = {name: f"https://{name}.example" for name in SERVICES}
JACKSON = ":".join(f"/usr/share/java/jackson-{part}.jar" for part in ("databind", "core", "annotations"))
TARGET, BODY = "/users/user-1/data?a=%20b", b'{"a": 1}'
passed = 0


def check(what, is_so, seen=""):
    global passed
    assert is_so, f"{what}: {seen}"
    passed += 1
    print(f"ok - {what}")


def snippets(folder):
    """The verifiers as the documentation has them, each where its service finds it."""
    page = (ROOT / "docs" / "upstream-identity.md").read_text()
    (folder / "gate").mkdir()
    for language, name in (("js", "verify.mjs"), ("python", "verify.py"), ("go", "gate/verify.go"), ("java", "Assertions.java")):
        [text] = re.findall(rf"^```{language}\n(.*?)^```", page, re.S | re.M)
        (folder / name).write_text(text)


def compiled(folder):
    """The services that must be compiled, by the commands that start them."""
    for file in ("service.go", "Service.java"):
        shutil.copy(HERE / file, folder)
    (folder / "go.mod").write_text("module service\n\ngo 1.19\n")
    for command in (
        ["go", "vet", "./..."],
        ["go", "build", "-o", "service", "."],
        ["javac", "-Xlint:all", "-Werror", "-cp", JACKSON, "Assertions.java", "Service.java"],
    ):
        subprocess.run(command, cwd=folder, check=True)
    return {"go": [folder / "service"], "java": ["java", "-cp", f"{JACKSON}:{folder}", "Service"]}


def key(folder, name, *algorithm):
    openssl(folder, "genpkey", *algorithm, "-out", f"{name}.pem")
    (folder / f"{name}.pub.pem").write_bytes(openssl(folder, "pkey", "-in", f"{name}.pem", "-pubout"))
    return (folder / f"{name}.pem").read_text()


def section(signing, other):
    return (
        f"identity: {{ assertion: {{ issuer: '{GATE}', signing_key: {{ file: {signing}.pem }}, other_keys: [{other}.pub.pem],\n"
        "  binds: [method, target, body], jwks_path: /.well-known/portcullis-jwks } }\n"
    )


def ask(port, target, body=BODY, method="POST", **fields):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, target, body=body, headers={name.replace("_", "-"): value for name, value in fields.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text)


class Services:
    def __init__(self, folder, node, home, gate_port, ports):
        flow = home / "flow"
        shutil.rmtree(flow, ignore_errors=True)
        flow.mkdir()
        for file in (HERE / "service.mjs", folder / "verify.mjs"):
            shutil.copy(file, flow)
        keys = f"http://127.0.0.1:{gate_port}/.well-known/portcullis-jwks"
        self.ports = ports
        commands = {
            "node": [node, flow / "service.mjs", flow / "verify.mjs"],
            "python": [sys.executable, HERE / "service.py", folder],
            **compiled(folder),
        }
        self.processes = [
            subprocess.Popen([*map(str, command), str(self.ports[name]), keys, GATE, AUDIENCES[name]])
            for name, command in commands.items()
        ]

    def wait(self):
        for port in self.ports.values():
            deadline = time.monotonic() + 60
            while True:
                try:
                    ask(port, "/")
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

    def end(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def through(gate, issuer, name, method="POST", body=BODY):
    return ask(gate.port, f"/{name}{TARGET}", body, method, authorization=f"Bearer {issuer.token()}", content_type="application/json")


def decoded(assertion):
    return jwt.decode(assertion, options={"verify_signature": False})


def forgeries(good, private, stranger, public):
    """What must not do, each by what is wrong with it. `good` is an assertion's claims."""
    fresh = iter(range(100))
    headers = {"typ": TYPE, "kid": private["kid"]}

    def signed(key=private["pem"], algorithm="EdDSA", header=None, **over):
        claims = {**good, "jti": f"forged-{next(fresh)}", **over}
        return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm, {**headers, **(header or {})})

    now = int(time.time())
    unsigned = ".".join(b64(json.dumps(part).encode()) for part in ({**headers, "alg": "none"}, {**good, "jti": "none"})) + "."
    hmac_signed = ".".join(b64(json.dumps(part).encode()) for part in ({**headers, "alg": "HS256"}, {**good, "jti": "hmac"}))
    hmac_signed += "." + b64(hmac.new(public.encode(), hmac_signed.encode(), hashlib.sha256).digest())
    return signed, {
        "another service's": signed(aud="https://elsewhere.example"),
        "no service's": signed(aud=None),
        "another gate's": signed(iss="https://other.example"),
        "an expired one": signed(iat=now - 60, exp=now - 30),
        "one that never expires": signed(exp=None),
        "one of another type": signed(header={"typ": "at+jwt"}),
        "one of no request": signed(request=None),
        "one signed by another key": signed(key=stranger),
        "one signed by a key that it brings along": signed(key=stranger, header={"jwk": {"kty": "OKP"}, "kid": "k"}),
        "one that is not signed": unsigned,
        "one signed with the public key as a secret": hmac_signed,
        "one with another payload": ".".join([signed().split(".")[0], b64(json.dumps({**good, "sub": "user-2"}).encode()), signed().split(".")[2]]),
        "none": "",
    }


def service(name, gate, issuer, port, private, stranger, public):
    status, told = through(gate, issuer, name)
    check(f"{name}: takes what the gate has allowed", (status, told.get("sub")) == (200, "user-1"), told)
    good = told["assertion"]
    check(f"{name}: and its claims are those of the request", decoded(good)["aud"] == AUDIENCES[name], decoded(good))
    status, told = through(gate, issuer, name, "GET", b"")
    check(f"{name}: without a body too", status == 200, told)
    large = json.dumps({"a": "x" * 65_000}).encode()
    status, told = through(gate, issuer, name, body=large)
    check(f"{name}: and with a large one", status == 200, told)

    if name in REMEMBERING:
        status, told = ask(port, TARGET, x_portcullis_assertion=good)
        check(f"{name}: refuses one that was used before", status == 403 and "before" in told["refused"], told)
    claims = decoded(good)
    signed, wrong = forgeries(claims, private, stranger, public)
    for what, assertion in wrong.items():
        status, told = ask(port, TARGET, x_portcullis_assertion=assertion)
        check(f"{name}: refuses {what}", status == 403, told)
    fresh = signed()
    for what, other in {
        "another method": {"method": "GET"},
        "another path": {"target": "/users/user-2/data?a=%20b"},
        "another query": {"target": "/users/user-1/data?a=b"},
        "another body": {"body": b'{"a": 2}'},
        "no body": {"body": b""},
    }.items():
        status, told = ask(port, **{"target": TARGET, **other}, x_portcullis_assertion=fresh)
        check(f"{name}: refuses it for {what}", status == 403 and "another request" in told["refused"], told)
    status, told = ask(port, TARGET, x_portcullis_assertion=fresh)
    check(f"{name}: which was good for its own", status == 200, told)
    return signed


def main(binary, node, home):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "policies").mkdir()
        for name in ("schema.cedarschema", "users.cedar"):
            shutil.copy(ROOT / "policies" / name, folder / "policies")
        snippets(folder)
        issuer = Issuer(folder)
        first = key(folder, "first", "-algorithm", "ed25519")
        key(folder, "next", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        stranger = key(folder, "stranger", "-algorithm", "ed25519")
        ports, services = {name: free_port() for name in SERVICES}, None
        route = "action: readOnly, resource: 'UserData::\"{path.id}\"', attributes: { owner: 'User::\"{path.id}\"' }"
        routes = "".join(
            f"  - {{ methods: [GET, POST], path: '/{name}/users/{{id}}/data', strip_prefix: /{name}, upstream: {name}, {route} }}\n"
            for name in SERVICES
        )
        upstreams = {name: f"{{ url: 'http://127.0.0.1:{port}', audience: '{AUDIENCES[name]}' }}" for name, port in ports.items()}
        named = "".join(f"  {name}: {upstream}\n" for name, upstream in upstreams.items())
        config = f"{routes}upstreams:\n{named}{section('first', 'next')}"
        gate = Gate(binary, folder, config, upstream=upstreams["node"])
        try:
            gate.wait_until_ready()
            services = Services(folder, node, home, gate.port, ports)
            services.wait()
            with urllib.request.urlopen(f"http://127.0.0.1:{gate.admin}/jwks", timeout=10) as answer:
                keys = json.load(answer)["keys"]
            check("the key set has the key that signs and the next one", [it["alg"] for it in keys] == ["EdDSA", "ES256"], keys)
            private = {"pem": first, "kid": keys[0]["kid"]}
            public = (folder / "first.pub.pem").read_text()
            signers = {
                name: service(name, gate, issuer, port, private, stranger, public) for name, port in services.ports.items()
            }
            for number, name in enumerate(SERVICES):
                status, told = through(gate, issuer, SERVICES[number - 1])
                status, told = ask(services.ports[name], TARGET, x_portcullis_assertion=told["assertion"])
                check(f"{name}: refuses what the gate has told another service", status == 403, told)

            text = (folder / "config.yaml").read_text()
            (folder / "config.yaml").write_text(text.replace(section("first", "next"), section("next", "first")))
            gate.gate.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 60
            while True:
                status, told = through(gate, issuer, "node")
                check("node: takes whatever the gate signs while keys change", status == 200, told)
                if jwt.get_unverified_header(told["assertion"])["alg"] == "ES256":
                    break
                assert time.monotonic() < deadline
                time.sleep(0.2)
            for name in SERVICES[1:]:
                status, told = through(gate, issuer, name)
                check(f"{name}: takes what the next key has signed", status == 200, told)
            for name, signed in signers.items():
                status, told = ask(services.ports[name], TARGET, x_portcullis_assertion=signed())
                check(f"{name}: takes what the key before has signed, while it holds", status == 200, told)
            with urllib.request.urlopen(f"http://127.0.0.1:{gate.admin}/jwks", timeout=10) as answer:
                algorithms = [it["alg"] for it in json.load(answer)["keys"]]
            check("the key set has both", algorithms == ["ES256", "EdDSA"], algorithms)
        finally:
            gate.end()
            if services:
                services.end()
    print(f"{passed} passed")


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
