"""Receivers of OTLP in front of which a gate is put to work, and what they must have got."""

import gzip
import json
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ROOT, Gate, Issuer, free_port, openssl  # noqa: E402

STAGES = ["portcullis.request", "portcullis.token", "portcullis.entities", "portcullis.policy"]
SECRET = "canary-of-the-receiver"
RATIO = 0.25
PATIENCE = 60


def value(it):
    kind = it.WhichOneof("value")
    if kind == "array_value":
        return [value(each) for each in it.array_value.values]
    if kind == "kvlist_value":
        return said(it.kvlist_value.values)
    return getattr(it, kind) if kind else None


def said(attributes):
    return {it.key: value(it.value) for it in attributes}


class Received:
    """What receivers have got, as bytes and as messages."""

    def __init__(self):
        self.lock, self.spans, self.records, self.bytes, self.fields = threading.Lock(), [], [], b"", []

    def take(self, message, fields):
        with self.lock:
            self.bytes += message.SerializeToString()
            self.fields.append(dict(fields))
            for group in getattr(message, "resource_spans", []):
                assert said(group.resource.attributes)["service.name"] == "the-gate"
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
            for group in getattr(message, "resource_logs", []):
                assert said(group.resource.attributes)["service.name"] == "the-gate"
                self.records += [record for scope in group.scope_logs for record in scope.log_records]

    def of(self, trace):
        with self.lock:
            return [span for span in self.spans if span.trace_id.hex() == trace]

    def wait(self, what, found):
        deadline = time.monotonic() + PATIENCE
        while not (result := found()):
            assert time.monotonic() < deadline, f"never: {what}"
            time.sleep(0.05)
        return result


class Service(traces_grpc.TraceServiceServicer, logs_grpc.LogsServiceServicer):
    def __init__(self, received):
        self.received = received

    def Export(self, message, context):  # noqa: N802
        self.received.take(message, context.invocation_metadata())
        return logs.ExportLogsServiceResponse() if isinstance(message, logs.ExportLogsServiceRequest) else traces.ExportTraceServiceResponse()


def by_grpc(received, port, credentials=None):
    server = grpc.server(ThreadPoolExecutor(4))
    service = Service(received)
    traces_grpc.add_TraceServiceServicer_to_server(service, server)
    logs_grpc.add_LogsServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    assert bound == port
    server.start()
    return server


def by_http(received):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):  # noqa: N802
            kinds = {"/v1/traces": traces.ExportTraceServiceRequest, "/v1/logs": logs.ExportLogsServiceRequest}
            message = kinds[self.path]()
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/x-protobuf"
            message.ParseFromString(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
            received.take(message, {name.lower(): it for name, it in self.headers.items()})
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def certificate(folder):
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "tls.key",
            "-out", "tls.pem", "-days", "2", "-subj", "/CN=receiver", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE")
    key, chain = (folder / "tls.key").read_bytes(), (folder / "tls.pem").read_bytes()
    return grpc.ssl_server_credentials([(key, chain)])


class House:
    def __init__(self, binary, folder):
        self.binary, self.folder, self.received = binary, folder, Received()
        shutil.copytree(ROOT / "policies", folder / "policies")
        (folder / "secret").write_text(SECRET)
        self.token = Issuer(folder).token()
        self.port = free_port()
        self.grpc = by_grpc(self.received, self.port)
        self.gate = Gate(binary, folder, self.traces(), locations="location / { return 200 '$http_traceparent'; }")
        self.gate.wait_until_ready()

    def traces(self, endpoint=None, more="", ratio=1):
        endpoint = endpoint or f"http://127.0.0.1:{self.port}"
        records = f"http://127.0.0.1:{self.port}"
        return (
            f"records: {{ otlp: {{ endpoint: '{records}', service_name: the-gate }} }}\n"
            f"traces:\n  parent: always\n  ratio: {ratio}\n  otlp: {{ endpoint: '{endpoint}', service_name: the-gate, "
            f"headers: [{{ name: x-key, value: {{ file: secret }} }}]{more} }}\n"
        )

    def reload(self, settings):
        """Puts other `settings` in the place of what stands from `traces` on, and waits until they are in force."""
        path = self.folder / "config.yaml"
        before = self.gate.metric('portcullis_reloads_total{outcome="good"}')
        path.write_text(path.read_text().split("records:")[0] + settings)
        self.received.wait("reload", lambda: self.gate.metric('portcullis_reloads_total{outcome="good"}') > before)

    def ask(self, path="/users/user-1/data?canary-of-the-query", token=None, trace=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.gate.port}{path}")
        request.add_header("authorization", f"Bearer {token or self.token}")
        if trace:
            request.add_header("traceparent", trace)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def records(self):
        text = (self.folder / "records.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def whole(self, trace, spans):
        return self.received.wait(f"{spans} spans of {trace}", lambda: len(found := self.received.of(trace)) >= spans and found)


def is_one_tree(house, number):
    """A request's spans, from its caller to its upstream."""
    trace, caller = f"{number:032x}", f"{number:016x}"
    status, upstreams = house.ask(trace=f"00-{trace}-{caller}-01")
    assert status == 200, upstreams
    spans = house.whole(trace, 6)
    assert len(spans) == 6, spans
    [server] = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    [client] = [span for span in spans if span.kind == span.SPAN_KIND_CLIENT]
    assert server.parent_span_id.hex() == caller and server.name == "GET /users/{id}/data"
    assert upstreams == f"00-{trace}-{client.span_id.hex()}-01", "the upstream's parent is the attempt"
    assert all(span.parent_span_id == server.span_id for span in spans if span is not server)
    assert sorted(span.name for span in spans if span.kind == span.SPAN_KIND_INTERNAL) == sorted(STAGES)
    assert said(client.attributes)["http.response.status_code"] == 200
    assert any(fields.get("x-key") == SECRET for fields in house.received.fields)
    [record] = house.received.wait("record", lambda: [it for it in house.records() if trace in it["traceparent"]])
    assert record["traceparent"] == f"00-{trace}-{server.span_id.hex()}-01"


def has_denial(house):
    """A denied request whose caller does not keep it is a span with its code all the same."""
    trace = f"{4711:032x}"
    status, _ = house.ask("/users/user-2/data", trace=f"00-{trace}-{1:016x}-00")
    assert status == 403
    spans = house.whole(trace, 5)
    [server] = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    about = said(server.attributes)
    assert (server.status.code, about["portcullis.code"], about["error.type"]) == (2, "access_denied", "access_denied"), about
    assert [span.name for span in spans if span is not server and span.status.code == 2] == ["portcullis.policy"]


def is_sampled(house, settings):
    """Exactly those requests are kept of which their records say so."""
    house.reload(settings)
    known = len(house.records())
    for _ in range(200):
        assert house.ask()[0] == 200
    records = house.received.wait("records", lambda: len(all := house.records()[known:]) == 200 and all)
    kept = {it["traceparent"][3:35] for it in records if it["traceparent"].endswith("-01")}
    assert 20 < len(kept) < 90, len(kept)
    bound = int(RATIO * (1 << 63))
    assert kept == {it["traceparent"][3:35] for it in records if int(it["traceparent"][19:35], 16) >> 1 < bound}
    for trace in kept:
        house.whole(trace, 6)
    left = {it["traceparent"][3:35] for it in records} - kept
    assert not any(house.received.of(trace) for trace in left)


def survives_without(house, number):
    """A receiver that goes away slows nobody, and gets what comes once it is there again."""
    house.grpc.stop(None).wait()
    began = time.monotonic()
    for _ in range(100):
        assert house.ask()[0] == 200
    assert time.monotonic() - began < 20
    house.received.wait("warning", lambda: "spans cannot be sent" in (house.folder / "log.jsonl").read_text())
    house.grpc = by_grpc(house.received, house.port)
    is_one_tree(house, number)


def has_records(house):
    """Each record is a log record of its trace, whole."""
    trace = f"{42:032x}"
    house.ask("/users/user-2/data", trace=f"00-{trace}-{1:016x}-01")
    received = house.received
    [told] = received.wait("record", lambda: [it for it in received.records if it.trace_id.hex() == trace])
    [written] = received.wait("line", lambda: [it for it in house.records() if trace in it["traceparent"]])
    assert json.dumps(value(told.body), sort_keys=True) == json.dumps(written, sort_keys=True), told
    assert told.span_id.hex() == written["traceparent"].split("-")[2]
    assert (told.severity_text, told.event_name) == ("WARN", "portcullis.decision")
    assert said(told.attributes)["portcullis.code"] == "access_denied"
    received.wait("all", lambda: len(received.records) == len(house.records()))


def refuses_without_records(house):
    """Where records are needed, none is no request, until the receiver is there again."""
    folder = house.folder / "needed"
    folder.mkdir()
    shutil.copytree(ROOT / "policies", folder / "policies")
    shutil.copy(house.folder / "keys.json", folder)
    port, received = free_port(), Received()
    settings = f"records: {{ when_full: refuse, otlp: {{ endpoint: 'http://127.0.0.1:{port}', service_name: the-gate }} }}\n"
    server = by_grpc(received, port)
    gate = Gate(house.binary, folder, settings)
    before, house.gate = house.gate, gate
    try:
        gate.wait_until_ready()
        assert house.ask()[0] == 200
        received.wait("record", lambda: received.records)
        server.stop(None).wait()
        assert house.ask()[0] == 200, "one is under way before anybody knows"
        received.wait("refusal", lambda: house.ask()[0] == 503)
        server = by_grpc(received, port)
        received.wait("admission", lambda: house.ask()[0] == 200)
    finally:
        gate.end()
        server.stop(None)
        house.gate = before


def ends_well(house):
    """What waits when the gate is told to stop is sent."""
    trace = f"{815:032x}"
    assert house.ask(trace=f"00-{trace}-{1:016x}-01")[0] == 200
    house.gate.gate.terminate()
    assert house.gate.gate.wait(timeout=60) == 0
    assert len(house.received.of(trace)) == 6


def tells_no_secret(house, told):
    """Neither the token nor another secret, nor the query, is in anything that the gate has written or sent."""
    written = b"".join((house.folder / name).read_bytes() for name in ("records.jsonl", "log.jsonl"))
    everything = written + house.received.bytes + told
    for canary in [*house.token.split("."), SECRET, "canary-of-the-query"]:
        assert canary.encode() not in everything, canary


def told_to_operators(house):
    said_there = b""
    for path in ("/metrics", "/keys", "/upstreams", "/readyz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{house.gate.admin}{path}", timeout=10) as answer:
            said_there += answer.read()
    return said_there


def main(binary):
    with tempfile.TemporaryDirectory() as name:
        house = House(binary, Path(name))
        try:
            is_one_tree(house, 1)
            has_denial(house)
            print("gRPC: one tree from client to upstream; a denial is a span")
            has_records(house)
            print("each record is a log record")
            survives_without(house, 2)
            print("a receiver that goes away slows nobody")
            http = by_http(house.received)
            house.reload(house.traces(f"http://127.0.0.1:{http.server_port}", ", protocol: http"))
            is_one_tree(house, 3)
            print("HTTP: likewise, after a reload")
            port = free_port()
            secure = by_grpc(house.received, port, certificate(house.folder))
            house.reload(house.traces(f"https://127.0.0.1:{port}", ", authorities: tls.pem"))
            is_one_tree(house, 4)
            secure.stop(None)
            print("gRPC by TLS, with an authority of its own: likewise")
            is_sampled(house, house.traces(ratio=RATIO))
            print("sampling: those whose records say so, and no others")
            refuses_without_records(house)
            print("no record, no request")
            told = told_to_operators(house)
            ends_well(house)
            tells_no_secret(house, told)
            print("at the end what waits is sent; no secret was told")
        finally:
            house.gate.end()
            house.grpc.stop(None)


main(sys.argv[1])
