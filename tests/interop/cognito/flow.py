"""Portcullis against a real issuer: Cognito user pools as MiniStack emulates them.

    python flow.py PATH_TO_PORTCULLIS_BINARY
    python flow.py --issuer-only

The issuer's half: a users' pool (A) with alice and bob, an agents' pool (B) with resource
servers, confidential clients and trigger.py as its V3 pre token generation Lambda. An agent
gets its token by client credentials and sends the user's token along as client metadata.

The gate's half: the release binary between those tokens and an upstream that reports what it
was sent. Everything listens on 127.0.0.1 and everything started here is ended here.

One line for each check, and `N passed, N failed` at the end; exit 1 if any failed.
"""

import base64
import contextlib
import http.client
import http.server
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse
import zipfile

# The emulator is the only AWS there is: whatever the caller has set for the real one, or as a
# proxy, must not lead a request away from loopback.
for _name in list(os.environ):
    if _name.startswith("AWS_") or _name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
        del os.environ[_name]
os.environ.update(NO_PROXY="127.0.0.1", AWS_CONFIG_FILE=os.devnull,
                  AWS_SHARED_CREDENTIALS_FILE=os.devnull)
sys.dont_write_bytecode = True  # importing the trigger leaves nothing in the source tree

import boto3
import botocore.config
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

import trigger

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
REGION = "us-east-1"
PASSWORD = "Corr3ct-horse"  # of users who live as long as this process
APP = "ExampleChatApplication"
READ, WRITE, USER_DATA = "crossDomainService/read", "crossDomainService/write", "userData/read"


# --- results -----------------------------------------------------------------------------------

passed = failed = 0


def check(name, problems):
    """One result line. `problems` says what is wrong; empty is a pass."""
    global passed, failed
    problems = [problem for problem in problems if problem]
    if problems:
        failed += 1
        print(f"FAIL {name}: {'; '.join(problems)}", flush=True)
    else:
        passed += 1
        print(f"ok  {name}", flush=True)


def differs(what, is_, should):
    return None if is_ == should else f"{what} is {is_!r}, not {should!r}"


# --- small tools -------------------------------------------------------------------------------

def until(what, seconds, probe):
    """The first true value of probe(), asked again until the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.05)


def free_ports(count):
    # All of them are held at once, so that no two are the same.
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def request(port, method, path, headers=(), body=None):
    """One request on a connection of its own: (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True,
                              skip_host=any(name == "Host" for name, _ in headers))
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def answers_200(port, path):
    try:
        return request(port, "GET", path)[0] == 200
    except OSError:
        return False


@contextlib.contextmanager
def child(arguments, log, **options):
    """A child process, ended by its own id however the block is left."""
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, **options)
    process.log = log
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def await_ready(name, process, port, path, seconds):
    def probe():
        if process.poll() is not None:
            raise RuntimeError(f"{name} exited with {process.returncode}:\n{tail(process.log)}")
        return answers_200(port, path)

    until(f"{name} to be ready", seconds, probe)


def tail(path):
    return path.read_text(errors="replace")[-4000:] if path.exists() else ""


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(part):
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def claims_of(token):
    return decoded(token.split(".")[1])


def flipped(token):
    """The token with other signature bytes: a middle character's bits all count."""
    head, _, signature = token.rpartition(".")
    at = len(signature) // 2
    other = "A" if signature[at] != "A" else "B"
    return f"{head}.{signature[:at]}{other}{signature[at + 1:]}"


# --- the issuer --------------------------------------------------------------------------------

class Issuer:
    """MiniStack with both pools in it."""

    def __init__(self, port, log):
        self.port, self.log = port, log
        self.seen = []  # every token that was ever held here, for the canary
        options = dict(
            region_name=REGION, endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="test", aws_secret_access_key="test",
            config=botocore.config.Config(connect_timeout=5, read_timeout=20,
                                          retries={"total_max_attempts": 1}),
        )
        self.idp = boto3.client("cognito-idp", **options)
        self.functions = boto3.client("lambda", **options)

    def iss(self, pool):
        return f"https://cognito-idp.{REGION}.amazonaws.com/{pool}"

    def jwks(self, pool):
        return f"http://127.0.0.1:{self.port}/{pool}/.well-known/jwks.json"

    def make_users(self):
        self.users = self.idp.create_user_pool(PoolName="users")["UserPool"]["Id"]
        app = self.idp.create_user_pool_client(
            UserPoolId=self.users, ClientName="chat",
            ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
        )["UserPoolClient"]["ClientId"]
        self.idp.create_group(UserPoolId=self.users, GroupName="readaccess")
        for name, groups in (("alice", ["readaccess"]), ("bob", [])):
            self.idp.admin_create_user(
                UserPoolId=self.users, Username=name, MessageAction="SUPPRESS")
            self.idp.admin_set_user_password(
                UserPoolId=self.users, Username=name, Password=PASSWORD, Permanent=True)
            for group in groups:
                self.idp.admin_add_user_to_group(
                    UserPoolId=self.users, Username=name, GroupName=group)
        return [self.sign_in(app, name) for name in ("alice", "bob")]

    def sign_in(self, app, name):
        result = self.idp.initiate_auth(
            ClientId=app, AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": name, "PASSWORD": PASSWORD},
        )["AuthenticationResult"]
        tokens = {"access": result["AccessToken"], "id": result["IdToken"]}
        self.seen += [*tokens.values(), result["RefreshToken"]]
        return {**tokens, "sub": claims_of(tokens["access"])["sub"], "name": name}

    def make_agents(self):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(HERE / "trigger.py", "trigger.py")
        # MiniStack runs a Python function with its own interpreter, so the trigger finds the
        # same `cryptography` as this file does, whatever runtime is named here.
        arn = self.functions.create_function(
            FunctionName="add-user-context", Runtime="python3.12", Handler="trigger.handler",
            Role="arn:aws:iam::000000000000:role/add-user-context", Timeout=10,
            Code={"ZipFile": packed.getvalue()},
            Environment={"Variables": {"USERS_ISSUER": self.iss(self.users),
                                       "USERS_JWKS_URI": self.jwks(self.users)}},
        )["FunctionArn"]
        created = self.idp.create_user_pool(PoolName="agents", LambdaConfig={
            "PreTokenGenerationConfig": {"LambdaArn": arn, "LambdaVersion": "V3_0"}})["UserPool"]
        self.agents = created["Id"]
        self.functions.add_permission(
            FunctionName=arn, StatementId="cognito", Action="lambda:InvokeFunction",
            Principal="cognito-idp.amazonaws.com", SourceArn=created["Arn"])
        for server, scopes in (("crossDomainService", ["read", "write"]), ("userData", ["read"])):
            self.idp.create_resource_server(
                UserPoolId=self.agents, Identifier=server, Name=server,
                Scopes=[{"ScopeName": each, "ScopeDescription": each} for each in scopes])
        return [self.make_client(name) for name in ("agent", "other")]

    def make_client(self, name):
        made = self.idp.create_user_pool_client(
            UserPoolId=self.agents, ClientName=name, GenerateSecret=True,
            AllowedOAuthFlowsUserPoolClient=True, AllowedOAuthFlows=["client_credentials"],
            AllowedOAuthScopes=[READ, WRITE, USER_DATA])["UserPoolClient"]
        return made["ClientId"], made["ClientSecret"]

    def ask(self, client, scope, metadata=None):
        """POST /oauth2/token as any agent would: (status, body as text)."""
        form = {"grant_type": "client_credentials", "scope": scope}
        if metadata is not None:
            form["aws_client_metadata"] = json.dumps(metadata)
        basic = ":".join(urllib.parse.quote(part, safe="") for part in client)
        status, _, body = request(
            self.port, "POST", "/oauth2/token",
            [("Authorization", "Basic " + base64.b64encode(basic.encode()).decode()),
             ("Content-Type", "application/x-www-form-urlencoded")],
            urllib.parse.urlencode(form).encode())
        return status, body.decode(errors="replace")

    def token(self, client, scope, user=None, app=APP):
        """An agent's access token, on behalf of a user if one is given."""
        metadata = {"callerApp": app} | ({"onBehalfOfToken": user["access"]} if user else {})
        status, body = self.ask(client, scope, metadata)
        if status != 200:
            raise RuntimeError(f"no token for scope {scope!r}: {status} {body}")
        token = json.loads(body)["access_token"]
        self.seen.append(token)
        return token

    def refusal(self, client, forged):
        """Ask with a user token that must not do: (status, body, the trigger's reason)."""
        self.seen.append(forged)
        said = len(self.log.read_text(errors="replace"))
        status, body = self.ask(client, READ, {"onBehalfOfToken": forged, "callerApp": APP})
        # MiniStack answers a failed trigger with a bare 500; the trigger's words are in its log.
        needle = "PreTokenGeneration error: {'errorMessage': '"
        log = until("the trigger's error in MiniStack's log", 5, lambda: self.log.read_text(
            errors="replace")[said:].partition(needle)[2]) if status >= 400 else ""
        return status, body, log.partition("'")[0]


@contextlib.contextmanager
def ministack(folder):
    port, = free_ports(1)
    log = folder / "ministack.log"
    home = folder / "ministack"
    home.mkdir()
    # An environment of its own: a variable the caller has set for another emulator would change
    # what is tested. TMPDIR takes its pid file and the unpacked Lambda.
    env = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "TMPDIR": str(home),
        "STATE_DIR": str(home / "state"), "S3_DATA_DIR": str(home / "s3"),
        "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "MINISTACK_REGION": REGION,
        "SERVICES": "cognito-idp,lambda", "LAMBDA_EXECUTOR": "local",
        # As on AWS: a trigger that fails leaves the caller without a token. Without this,
        # MiniStack would issue the token unchanged.
        "MINISTACK_COGNITO_PRETOKEN_STRICT": "1",
        # These two listen on every interface of their own accord, whatever BIND_HOST says.
        "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0",
    }
    with open(log, "wb") as out, child([sys.executable, "-m", "ministack"], log, cwd=home, env=env,
                                       stdout=out, stderr=subprocess.STDOUT) as process:
        await_ready("MiniStack", process, port, "/_ministack/health", 60)
        yield Issuer(port, log)


def show(title, token):
    """What was issued, for the reader of the log: header and claims, never the signature."""
    header, claims, _ = token.split(".")
    print(f"{title}\n  header {json.dumps(decoded(header))}")
    print("  claims " + json.dumps(decoded(claims), indent=2).replace("\n", "\n  "), flush=True)


def forgeries(alice, bob, agent_token):
    """User tokens that must get no agent a token, each with the reason the trigger must give."""
    header, claims, signature = alice["access"].split(".")
    as_bob = b64(json.dumps({**decoded(claims), "sub": bob["sub"]}).encode())
    unsigned = b64(json.dumps({**decoded(header), "alg": "none"}).encode())
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own = b64(key.sign(f"{header}.{claims}".encode(), padding.PKCS1v15(), SHA256()))
    return [
        ("a flipped signature byte", flipped(alice["access"]), "bad signature"),
        ("bob's sub in alice's token", f"{header}.{as_bob}.{signature}", "bad signature"),
        ("a stranger's key under the pool's key id", f"{header}.{claims}.{own}", "bad signature"),
        ("alg none and no signature", f"{unsigned}.{claims}.", "not RS256"),
        ("the agents' pool's own token", agent_token, "unknown key"),
        ("the user's ID token", alice["id"], "not an access token"),
        ("an empty token", "", "not a signed JWT"),
    ]


def issuer_half(issuer):
    alice, bob = issuer.make_users()
    agent, other = issuer.make_agents()

    token = issuer.token(agent, f"{READ} {USER_DATA}", alice)
    show("the agent's token on alice's behalf:", token)
    claims = claims_of(token)
    keys = json.loads(request(issuer.port, "GET", f"/{issuer.agents}/.well-known/jwks.json")[2])
    check("issuer: the agent's token carries the user and the calling application", [
        differs("iss", claims.get("iss"), issuer.iss(issuer.agents)),
        differs("sub", claims.get("sub"), agent[0]),
        differs("client_id", claims.get("client_id"), agent[0]),
        differs("token_use", claims.get("token_use"), "access"),
        differs("scope", sorted(claims.get("scope", "").split()), [READ, USER_DATA]),
        differs("onBehalfOf", claims.get("onBehalfOf"),
                {"sub": alice["sub"], "username": "alice", "groups": ["readaccess"]}),
        differs("callerApp", claims.get("callerApp"), APP),
        differs("alg", decoded(token.split(".")[0]).get("alg"), "RS256"),
        None if decoded(token.split(".")[0]).get("kid") in [key["kid"] for key in keys["keys"]]
        else "the token's key is not in the pool's JWKS",
    ])

    for name, forged, reason in forgeries(alice, bob, token):
        status, body, said = issuer.refusal(agent, forged)
        check(f"issuer: no agent token for {name}", [
            f"status is {status}" if status < 400 else None,
            "there is a token in the answer" if "access_token" in body else None,
            differs("the trigger's reason", said, reason),
        ])
    # Cognito issues no token that is already stale, so here the clock moves, not the token.
    os.environ.update(USERS_ISSUER=issuer.iss(issuer.users),
                      USERS_JWKS_URI=issuer.jwks(issuer.users))
    outcome = {}
    for moment, now in (("now", time.time()), ("later", time.time() + 7 * 86400)):
        try:
            outcome[moment] = trigger.verified_user(alice["access"], now)["username"]
        except trigger.BadUserToken as refused:
            outcome[moment] = str(refused)
    check("issuer: the trigger refuses a user's token that has expired",
          [differs("the trigger's answer", outcome, {"now": "alice", "later": "expired"})])

    nobody = issuer.token(agent, READ)
    check("issuer: without a user the token is issued with an empty onBehalfOf", [
        differs("onBehalfOf", claims_of(nobody).get("onBehalfOf"), {}),
        differs("callerApp", claims_of(nobody).get("callerApp"), APP),
    ])
    status, body = issuer.ask(agent, READ)
    bare = json.loads(body).get("access_token", "") if status == 200 else ""
    issuer.seen += [bare] if bare else []
    check("issuer: without any client metadata callerApp is empty too", [
        differs("status", status, 200),
        bare and differs("onBehalfOf", claims_of(bare).get("onBehalfOf"), {}),
        bare and differs("callerApp", claims_of(bare).get("callerApp"), ""),
    ])
    return {
        "alice": alice, "bob": bob, "agent": agent, "for_alice": token, "for_nobody": nobody,
        "for_bob": issuer.token(agent, READ, bob),
        "write_only": issuer.token(agent, WRITE, alice),
        "elsewhere": issuer.token(agent, USER_DATA, alice),
        "other_client": issuer.token(other, READ, alice),
    }


# --- the gate ----------------------------------------------------------------------------------

class Upstream(http.server.ThreadingHTTPServer):
    """Answers every GET with what it was sent, and remembers how often it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Echo)
        self.requests = 0
        self.lock = threading.Lock()

    def handle_error(self, *_):
        pass  # a connection the gate closed is no news


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        with self.server.lock:
            self.server.requests += 1
        body = json.dumps({"path": self.path, "headers": self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Gate:
    def __init__(self, port, upstream, stdout):
        self.port, self.upstream, self.stdout = port, upstream, stdout

    def decisions(self):
        """The decision lines written so far; a line still being written is left for later."""
        found = []
        for line in self.stdout.read_text().split("\n")[:-1]:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict) and "decision" in value:
                    found.append(value)
        return found

    def get(self, path, token=None, headers=()):
        asked, decided = self.upstream.requests, len(self.decisions())
        bearer = [("Authorization", f"Bearer {token}")] if token else []
        status, answered, body = request(
            self.port, "GET", path, [("Host", "gate.test"), *bearer, *headers])
        lines = until("a decision line", 5, lambda: self.decisions()[decided:])
        return {
            "status": status, "headers": answered, "body": body, "lines": lines,
            "reached": self.upstream.requests - asked,
        }


@contextlib.contextmanager
def portcullis(binary, folder, issuer, client_id, upstream):
    port, admin = free_ports(2)
    config = folder / "config.yaml"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
upstream:
  url: http://127.0.0.1:{upstream.server_port}
issuers:
  - cognito_access:
      issuer: {issuer.iss(issuer.agents)}
      jwks_uri: {issuer.jwks(issuer.agents)}
      client_ids: [{client_id}]
      scope_prefix: crossDomainService/
policies: {json.dumps(str(ROOT / "policies"))}
routes:
  - methods: [GET]
    path: /users/{{userId}}/data
    action: readOnly
    resource: UserData::"{{path.userId}}"
    attributes:
      owner: User::"{{path.userId}}"
    scope: {READ}
""")
    stdout, stderr = folder / "gate.stdout", folder / "gate.stderr"
    # As it ships: no setting of the caller's shell reaches the gate.
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)}
    with open(stdout, "wb") as out, open(stderr, "wb") as err, \
            child([binary, "serve", "--config", str(config)], stderr, cwd=folder, env=env,
                  stdout=out, stderr=err) as process:
        await_ready("the gate", process, admin, "/readyz", 10)
        yield Gate(port, upstream, stdout)


def expect(name, answer, status, code, *more):
    """The answer's status, its one decision line, and whether the upstream was asked."""
    lines = [(line.get("decision"), line.get("code")) for line in answer["lines"]]
    check(f"gate: {name}", [
        differs("status", answer["status"], status),
        differs("the decision log", lines, [("allow" if status == 200 else "deny", code)]),
        differs("the number of upstream requests", answer["reached"], int(status == 200)),
        *more,
    ])


def upstream_saw(answer, agent, user):
    """What is wrong with the headers the upstream was given, compared as CGI would name them."""
    if answer["status"] != 200:
        return []
    seen = {}
    for name, value in json.loads(answer["body"])["headers"]:
        seen.setdefault(name.lower().replace("_", "-"), []).append(value)
    decision = seen.get("x-portcullis-decision")
    logged = [line.get("decision_id") for line in answer["lines"]]
    return [
        differs("x-portcullis-agent", seen.get("x-portcullis-agent"), [agent]),
        differs("x-portcullis-user", seen.get("x-portcullis-user"), [user]),
        differs("x-portcullis-app", seen.get("x-portcullis-app"), [APP]),
        differs("x-portcullis-decision", decision, logged),
        None if decision and all(decision) else "x-portcullis-decision is empty",
        "the upstream saw an Authorization header" if "authorization" in seen else None,
        "a spoofed value came through" if {"victim", "evil"}.intersection(sum(seen.values(), []))
        else None,
    ]


def gate_half(gate, made):
    alice, bob, client_id = made["alice"], made["bob"], made["agent"][0]
    of_alice, of_bob = (f"/users/{user['sub']}/data" for user in (alice, bob))

    answer = gate.get(of_alice, made["for_alice"])
    expect("the agent reads alice's data on alice's behalf", answer, 200, "allowed",
           *upstream_saw(answer, client_id, alice["sub"]))
    expect("the agent does not read bob's data on alice's behalf",
           gate.get(of_bob, made["for_alice"]), 403, "access_denied")
    answer = gate.get(of_bob, made["for_bob"])
    expect("the agent reads bob's data on bob's behalf", answer, 200, "allowed",
           *upstream_saw(answer, client_id, bob["sub"]))
    expect("a token on nobody's behalf is refused",
           gate.get(of_alice, made["for_nobody"]), 403, "delegation_missing")

    answer = gate.get(of_alice, made["write_only"])
    challenge = answer["headers"].get("WWW-Authenticate", "")
    expect("a token without the route's scope is refused", answer, 403, "scope_missing",
           None if "insufficient_scope" in challenge else f"WWW-Authenticate is {challenge!r}")
    expect("a token for another resource server is refused",
           gate.get(of_alice, made["elsewhere"]), 401, "audience_wrong")
    expect("a client that is not on the list is refused",
           gate.get(of_alice, made["other_client"]), 401, "client_refused")
    expect("alice's own token is refused",
           gate.get(of_alice, alice["access"]), 401, "issuer_unknown")
    expect("a flipped signature byte is refused",
           gate.get(of_alice, flipped(made["for_alice"])), 401, "signature_invalid")

    answer = gate.get(of_alice)
    challenge = answer["headers"].get("WWW-Authenticate", "")
    expect("a request without a token is challenged", answer, 401, "token_missing",
           None if challenge.split(" ")[0] == "Bearer" and "error=" not in challenge
           else f"WWW-Authenticate is {challenge!r}")

    answer = gate.get(of_alice, made["for_alice"],
                      headers=[("X_Portcullis_User", "victim"), ("x-portcullis-agent", "evil")])
    expect("identity headers of the client's own do not reach the upstream", answer, 200,
           "allowed", *upstream_saw(answer, client_id, alice["sub"]))
    return len(gate.decisions())


def canary(folder, tokens, decisions):
    """No token, and no payload or signature of one, in anything the gate has written."""
    parts = {part for token in tokens for part in (token, *token.split(".")[1:]) if part}
    leaky = [name for name in ("gate.stdout", "gate.stderr")
             if any(part in (folder / name).read_text(errors="replace") for part in parts)]
    check("gate: no token in what the gate has written", [
        None if decisions else "the gate has written no decision at all",
        None if parts else "no token to look for",
        f"found one in {', '.join(leaky)}" if leaky else None,
    ])


# --- the whole ---------------------------------------------------------------------------------

def run(binary, folder):
    with ministack(folder) as issuer:
        made = issuer_half(issuer)
        if binary is None:
            return
        with Upstream() as upstream:
            threading.Thread(target=upstream.serve_forever, daemon=True).start()
            try:
                with portcullis(binary, folder, issuer, made["agent"][0], upstream) as gate:
                    decisions = gate_half(gate, made)
            finally:
                upstream.shutdown()
        # Only now, with the gate gone, is all that it had to say on disk.
        canary(folder, [*issuer.seen, flipped(made["for_alice"])], decisions)


def main(arguments):
    if len(arguments) != 1:
        print("usage: flow.py PATH_TO_PORTCULLIS_BINARY | --issuer-only", file=sys.stderr)
        return 2
    binary = None if arguments[0] == "--issuer-only" else os.path.abspath(arguments[0])
    if binary and not os.access(binary, os.X_OK):
        print(f"flow.py: {binary} is not an executable file", file=sys.stderr)
        return 2
    # A termination leaves the way every other exit does, so that the children end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="portcullis-cognito-") as name:
        folder = pathlib.Path(name)
        try:
            run(binary, folder)
        except Exception as error:
            check("the run itself", [str(error) or repr(error)])
            traceback.print_exc()
        if failed:
            for log in ("ministack.log", "gate.stdout", "gate.stderr"):
                print(f"--- the end of {log}\n{tail(folder / log)}", file=sys.stderr)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
