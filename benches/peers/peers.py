"""What is compared: each peer as somebody would set it up who knows it, with one worker, and for the same policy: the scope, the
calling app, and that the resource is the user's for whom the agent acts."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import PROXY_CORE, Running, free_port
from tokens import APP, CLIENT, ISSUER, SCOPE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def said(*command):
    """What a program says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr).group(0)


class Peer:
    """One of them, in `folder`, where the issuer's keys are. `gates` tells whether it can decide, `plain` whether it can do without;
    a rival is one that could stand in the gate's place."""

    gates = plain = rival = True
    algorithms = ("RS256", "ES256")
    # As many as it is asked by.
    connections_max = 4096
    # What it reads of the folder in which the issuer's keys are.
    reads = ("keys.json", "RS256.pem", "ES256.pem")

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()

    @classmethod
    def housed(cls, folder, **set):
        """In a folder of its own within that of the issuer, since others may be there; with what is `set` of it."""
        peer = cls(Path(tempfile.mkdtemp(prefix=f"{cls.__name__}-", dir=folder)))
        for file in cls.reads:
            shutil.copy(folder / file, peer.folder)
        vars(peer).update(set)
        return peer

    def start(self, upstream, token, plain=False, before=(), cores=PROXY_CORE):
        """Runs it, where it gates, until `token` is let through; `before` its command what runs it."""
        plain = plain or not self.gates
        command = [*before, *self.command(upstream, plain)]
        return Running(command, self.port, self.folder, None if plain else token, self.environment(), cores)

    def command(self, upstream, plain=False):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)


class Portcullis(Peer):
    name = "Portcullis"
    plain = rival = False
    binary = None
    # What a configuration says more, for those that are to be larger.
    issuers = routes = more = policies = named = user_prefix = ""
    keys = "jwks_file: keys.json"
    settings = "limits: { connections_per_peer_max: 10000 }\n"

    def version(self):
        return said(self.binary, "--version")

    def schema(self):
        return (ROOT / "policies" / "schema.cedarschema").read_text()

    def configure(self, upstream):
        policies = self.folder / "policies"
        policies.mkdir(exist_ok=True)
        (policies / "schema.cedarschema").write_text(self.schema())
        (policies / "users.cedar").write_text((ROOT / "policies" / "users.cedar").read_text() + self.policies)
        config = self.folder / "config.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\nadmin: 'unix:{self.folder}/admin.sock'\nupstream: {{ url: 'http://127.0.0.1:{upstream}' }}\n"
            f"issuers:\n  - cognito_access: {{ issuer: '{ISSUER}', {self.keys}, client_ids: [{CLIENT}],\n"
            f"      scope_prefix: crossDomainService/, algorithms: [RS256, ES256]{self.named} }}\n{self.issuers}{self.settings}routes:\n"
            "  - { methods: [GET, PUT], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"',\n"
            f"      attributes: {{ owner: 'User::\"{self.user_prefix}{{path.id}}\"' }} }}\n{self.routes}{self.more}"
        )
        return str(config)

    def command(self, upstream, plain=False):
        return [self.binary, "serve", "--config", self.configure(upstream)]


class Asking(Portcullis):
    """With a policy that reads what each request may say anew, so that no decision can be one that was made before."""

    name = "Portcullis, with a policy that reads a header"
    policies = '@id("asks") forbid (principal, action, resource) when { context.request.headers.tier.contains("none") };\n'

    def schema(self):
        return super().schema().replace("    consent?: Consent,", "    consent?: Consent,\n    request: { headers: { tier: Set<String> } },")


class Floor(Portcullis):
    """What the gate stands on, without the gate."""

    name = "its listener and forwarding, without a gate"
    gates, plain = False, True
    floor = None
    options = ()

    def command(self, upstream, plain=True):
        return [self.floor, *self.options, self.configure(upstream)]


class Stock(Floor):
    name = "pingora alone"
    options = ("--stock",)


def ident(name):
    return {"ident_expr": {"name": name}}


def text(value):
    return {"const_expr": {"string_value": value}}


def call(function, *arguments, target=None):
    return {"call_expr": {"function": function, "args": list(arguments), **({"target": target} if target else {})}}


def claim(*names):
    """A claim of the token that Envoy has verified."""
    value = call("_[_]", {"select_expr": {"operand": ident("metadata"), "field": "filter_metadata"}}, text("envoy.filters.http.jwt_authn"))
    for name in ("token", *names):
        value = call("_[_]", value, text(name))
    return value


class Envoy(Peer):
    name = "Envoy, jwt_authn with cache, RBAC with CEL"
    cache = 10_000

    @property
    def program(self):
        return str(Path(sys.executable).with_name("envoy"))

    def version(self):
        return said(self.program, "--version")

    def command(self, upstream, plain=False):
        types = "type.googleapis.com/envoy.extensions.filters.http"
        path = {"select_expr": {"operand": ident("request"), "field": "path"}}
        owned = call("_==_", path, call("_+_", call("_+_", text("/users/"), claim("onBehalfOf", "sub")), text("/data")))
        scoped = call("contains", text(SCOPE), target=claim("scope"))
        called = call("_==_", claim("callerApp"), text(APP))
        client = call("_==_", claim("client_id"), text(CLIENT))
        condition = owned
        for more in (scoped, called, client):
            condition = call("_&&_", condition, more)
        filters = [
            {"name": "jwt", "typed_config": {
                "@type": f"{types}.jwt_authn.v3.JwtAuthentication",
                "providers": {"agents": {
                    "issuer": ISSUER, "local_jwks": {"inline_string": (self.folder / "keys.json").read_text()},
                    "payload_in_metadata": "token", "jwt_cache_config": {"jwt_cache_size": self.cache}}},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "agents"}}]}},
            {"name": "rbac", "typed_config": {
                "@type": f"{types}.rbac.v3.RBAC",
                "rules": {"action": "ALLOW", "policies": {"owner": {
                    "permissions": [{"any": True}], "principals": [{"any": True}], "condition": condition,
                    "cel_config": {"enable_string_concat": True}}}}}},
        ]
        router = {"name": "router", "typed_config": {"@type": f"{types}.router.v3.Router"}}
        connections = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "gate", "http_filters": ([] if plain else filters) + [router],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "service"}}]}]},
        }
        config = {"static_resources": {
            "listeners": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
                           "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}]}],
            "clusters": [{"name": "service", "type": "STATIC", "load_assignment": {"cluster_name": "service", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}]}]}}],
        }}
        (self.folder / "envoy.json").write_text(json.dumps(config))
        return [self.program, "-c", str(self.folder / "envoy.json"), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


class HAProxy(Peer):
    name = "HAProxy, jwt_verify with ACLs"
    # Of ES256 Debian's version takes signatures in DER alone, which no token has.
    algorithms = ("RS256",)

    def version(self):
        return said("haproxy", "-v")

    def command(self, upstream, plain=False):
        gate = "" if plain else f"""
    http-request set-var(txn.token) http_auth_bearer
    http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
    http-request deny deny_status 401 unless {{ var(txn.alg) -m str RS256 }}
    http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify(txn.alg,"{self.folder}/RS256.pem") 1 }}
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
    http-request deny deny_status 401 if {{ date(),neg,add(txn.exp) lt 0 }}
    http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.iss') -m str {ISSUER} }}
    http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.client_id') -m str {CLIENT} }}
    http-request deny unless {{ var(txn.token),jwt_payload_query('$.scope') -m reg (^|\\ ){SCOPE}(\\ |$) }}
    http-request deny unless {{ var(txn.token),jwt_payload_query('$.callerApp') -m str {APP} }}
    http-request set-var(txn.user) var(txn.token),jwt_payload_query('$.onBehalfOf.sub')
    http-request set-var(txn.owned) str(),concat(/users/,txn.user,/data)
    http-request deny unless {{ path,strcmp(txn.owned) eq 0 }}"""
        (self.folder / "haproxy.cfg").write_text(f"""global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend gate
    bind 127.0.0.1:{self.port}{gate}
    default_backend service
backend service
    http-reuse always
    server one 127.0.0.1:{upstream}
""")
        return ["haproxy", "-db", "-f", str(self.folder / "haproxy.cfg")]


class Njs(Peer):
    name = "nginx with njs"

    def version(self):
        return said("nginx", "-v")

    def environment(self):
        return {**os.environ, "GATE_FOLDER": str(self.folder)}

    def command(self, upstream, plain=False):
        (self.folder / "gate.js").write_text((HERE / "gate.js").read_text())
        gate = "" if plain else "auth_request /gate;"
        (self.folder / "njs.conf").write_text(f"""load_module modules/ngx_http_js_module.so;
daemon off; user root; pid {self.folder}/njs.pid; error_log stderr error; worker_processes 1; env GATE_FOLDER;
events {{ worker_connections 4096; }}
http {{
  access_log off; js_import gate from {self.folder}/gate.js;
  upstream service {{ server 127.0.0.1:{upstream}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{self.port};
    client_max_body_size 2m;
    location / {{ {gate} proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    location = /gate {{ internal; js_content gate.check; }}
  }}
}}
""")
        return ["nginx", "-p", "/usr/share/nginx", "-c", str(self.folder / "njs.conf")]


class Express(Peer):
    name = "Express with aws-jwt-verify and cedar-wasm"
    # With 512 it sometimes answers nobody.
    connections_max = 64
    home = None
    node = "node"

    def version(self):
        return json.loads((HERE / "express" / "package.json").read_text())["dependencies"]["express"]

    def command(self, upstream, plain=False):
        (self.folder / "one.cedar").write_text((HERE / "one.cedar").read_text())
        # It finds its packages beside it.
        program = self.home / "server.js"
        program.write_text((HERE / "express" / "server.js").read_text())
        return [self.node, str(program), str(self.port), f"http://127.0.0.1:{upstream}", str(self.folder), "plain" if plain else "gate"]


class AgentGateway(Peer):
    """By the path of its binary alone."""

    name = "agentgateway, jwtAuth with CEL"
    binary = None

    def version(self):
        return said(self.binary, "--version")

    def command(self, upstream, plain=False):
        rules = [f"jwt.client_id == '{CLIENT}' && jwt.callerApp == '{APP}' && '{SCOPE}' in jwt.scope.split(' ') && "
                 "request.path == '/users/' + jwt.onBehalfOf.sub + '/data'"]
        policies = {"jwtAuth": {"mode": "strict", "issuer": ISSUER, "jwks": {"file": str(self.folder / "keys.json")}},
                    "authorization": {"rules": rules}}
        route = {"backends": [{"host": f"127.0.0.1:{upstream}"}], **({} if plain else {"policies": policies})}
        ports = {f"{name}Addr": "127.0.0.1:0" for name in ("admin", "stats", "readiness")}
        config = {"config": ports, "binds": [{"port": self.port, "listeners": [{"routes": [route]}]}]}
        (self.folder / "agentgateway.json").write_text(json.dumps(config))
        return [self.binary, "-f", str(self.folder / "agentgateway.json")]


ALL = (Portcullis, Asking, Floor, Stock, Envoy, HAProxy, Njs, Express, AgentGateway)
