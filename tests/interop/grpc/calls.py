"""gRPC through the gate; see run.sh."""

import concurrent.futures
import json
import queue
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ROOT, Gate, Issuer, free_port

LARGE = 3 * 1024 * 1024
PATIENCE = 20


class Service(grpc.GenericRpcHandler):
    """Bytes in, bytes out: what a call does is its method."""

    def __init__(self):
        self.hanging = threading.Event()
        self.cancelled = threading.Event()
        self.go_on = threading.Event()
        self.metadata = {}
        self.serves = True

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(self.check)
        self.metadata = dict(details.invocation_metadata)
        kind, _, does = details.method.rpartition("/")[2].partition("_")
        method = getattr(self, f"{kind}_{does}" if does else kind, None)
        if method is None:
            return None
        handlers = {
            "unary": grpc.unary_unary_rpc_method_handler, "down": grpc.unary_stream_rpc_method_handler,
            "up": grpc.stream_unary_rpc_method_handler, "both": grpc.stream_stream_rpc_method_handler,
        }
        return handlers[kind](method)

    def check(self, request, context):
        # `HealthCheckRequest { service: "demo.Data" }` and `HealthCheckResponse`.
        if request != b"\x0a\x09demo.Data":
            context.abort(grpc.StatusCode.NOT_FOUND, "another service")
        return b"\x08\x01" if self.serves else b"\x08\x02"

    def unary(self, request, context):
        context.set_trailing_metadata((("after", "word"), ("x-portcullis-agent", "forged")))
        return request

    def unary_fails(self, request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: é %")

    def unary_hangs(self, request, context):
        context.add_callback(self.cancelled.set)
        self.hanging.set()
        self.cancelled.wait(PATIENCE)
        return request

    def down(self, request, context):
        yield b"first"
        # The second is not made before the first has come.
        assert self.go_on.wait(PATIENCE), "the first message was held back"
        yield b"second"

    def up(self, requests, context):
        return str(sum(len(request) for request in requests)).encode()

    def both(self, requests, context):
        for request in requests:
            yield request.upper()


class Caller:
    def __init__(self, port, token):
        options = [("grpc.max_receive_message_length", 2 * LARGE), ("grpc.max_send_message_length", 2 * LARGE)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def call(self, kind, request, method=None, service="demo.Data", **more):
        make = {"unary": "unary_unary", "down": "unary_stream", "up": "stream_unary", "both": "stream_stream"}[kind]
        call = getattr(self.channel, make)(f"/{service}/{method or kind}")
        return call(request, metadata=self.metadata, **{"timeout": PATIENCE, **more})


def code_of(call):
    try:
        call()
        return None, None
    except grpc.RpcError as error:
        return error.code(), error.details()


def until(caller, code):
    """Whether calls end with this code, soon."""
    for _ in range(100):
        if code_of(lambda: caller.call("unary", b""))[0] == code:
            return True
        time.sleep(0.05)
    return False


def main(binary):
    checks = []

    def check(name, seen, expected):
        assert seen == expected, f"{name}: {seen!r} is not {expected!r}"
        checks.append(name)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = Issuer(folder).token()
        (folder / "policies").mkdir()
        for file in ("schema.cedarschema", "users.cedar"):
            (folder / "policies" / file).write_text((ROOT / "policies" / file).read_text())
        service, port = Service(), free_port()
        options = [("grpc.max_receive_message_length", 2 * LARGE), ("grpc.max_send_message_length", 2 * LARGE)]
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), handlers=[service], options=options)
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        route = (
            "  - {{ methods: [POST], path: '/{0}/{{method}}', action: readOnly, resource: 'UserData::\"{1}\"',\n"
            "      attributes: {{ owner: 'User::\"{1}\"' }} }}\n"
        )
        routes = route.format("demo.Data", "user-1") + route.format("demo.Others", "user-2")
        health = "{ grpc_service: demo.Data, interval_ms: 100, healthy_after: 1, unhealthy_after: 1 }"
        gate = Gate(binary, folder, routes, upstream=f"{{ url: 'http://127.0.0.1:{port}', http2: only, health: {health} }}")
        try:
            gate.wait_until_ready()
            caller = Caller(gate.port, token)
            response, call = Caller(gate.port, token).channel.unary_unary("/demo.Data/unary").with_call(
                b"hello", metadata=caller.metadata, timeout=PATIENCE)
            check("a call is answered", response, b"hello")
            trailers = {key: value for key, value in call.trailing_metadata()}
            check("metadata behind an answer comes", trailers.get("after"), "word")
            check("but not under our names", "x-portcullis-agent" in trailers, False)
            check("the service is told for whom", service.metadata.get("x-portcullis-user"), "user-1")
            check("and does not see the token", "authorization" in service.metadata, False)
            check("large messages pass", caller.call("unary", b"x" * LARGE), b"x" * LARGE)

            stream = caller.call("down", b"")
            check("the first message of a stream does not wait", next(stream), b"first")
            service.go_on.set()
            check("the others follow", list(stream), [b"second"])
            check("a stream is taken", caller.call("up", iter([b"x" * 100_000] * 20)), b"2000000")

            words = queue.Queue()
            answers = caller.call("both", iter(words.get, None))
            for word in (b"one", b"two"):
                words.put(word)
                check(f"both ways at once: {word.decode()}", next(answers), word.upper())
            words.put(None)
            check("and to the end", list(answers), [])

            failed = code_of(lambda: caller.call("unary", b"", "unary_fails"))
            check("a failure comes with its words", failed, (grpc.StatusCode.FAILED_PRECONDITION, "not now: é %"))
            unknown = code_of(lambda: caller.call("unary", b"", "unary_none"))[0]
            check("what is not there is not", unknown, grpc.StatusCode.UNIMPLEMENTED)
            late = code_of(lambda: caller.call("unary", b"", "unary_hangs", timeout=0.5))[0]
            check("a deadline is kept", late, grpc.StatusCode.DEADLINE_EXCEEDED)
            check("and the service learns of it", service.cancelled.wait(PATIENCE), True)
            # Of a deadline the service knows itself; of this the gate alone can tell it.
            for event in (service.hanging, service.cancelled):
                event.clear()
            given_up = caller.channel.unary_unary("/demo.Data/unary_hangs").future(b"", metadata=caller.metadata)
            check("a call that hangs has come", service.hanging.wait(PATIENCE), True)
            given_up.cancel()
            check("the service learns of a caller that gives up", service.cancelled.wait(PATIENCE), True)

            def refused(call):
                code, said = code_of(call)
                return code, said.partition(", decision ")[0]

            denied = refused(lambda: caller.call("unary", b"", service="demo.Others"))
            check("what policies deny is denied", denied, (grpc.StatusCode.PERMISSION_DENIED, "access_denied"))
            nobody = refused(lambda: Caller(gate.port, None).call("unary", b""))
            check("without a token nobody is known", nobody, (grpc.StatusCode.UNAUTHENTICATED, "token_missing"))
            elsewhere = refused(lambda: caller.call("unary", b"", service="demo.Nowhere"))
            check("what no route describes is not there", elsewhere, (grpc.StatusCode.UNIMPLEMENTED, "route_missing"))

            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                calls = [pool.submit(caller.call, "unary", str(number).encode() * 100) for number in range(500)]
                answers = [call.result() for call in calls]
            check("calls at once are kept apart", answers, [str(number).encode() * 100 for number in range(500)])

            service.serves = False
            check("a service that does not serve is not asked", until(caller, grpc.StatusCode.UNAVAILABLE), True)
            service.serves = True
            check("until it does", until(caller, None), True)

            server.stop(None).wait(PATIENCE)
            gone = code_of(lambda: caller.call("unary", b""))[0]
            check("a service that is gone is unavailable", gone, grpc.StatusCode.UNAVAILABLE)
        finally:
            server.stop(None)
            gate.end()
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        codes = {record["code"] for record in records}
        expected = {"allowed", "access_denied", "token_missing", "route_missing", "upstream_unavailable", "client_gone"}
        # Whether the gate or a call finds out first that the service is gone is left to chance.
        check("every call has its record", codes - {"upstream_unreachable", "upstream_invalid"}, expected)
        check("one each", sum(record["code"] == "allowed" for record in records) >= 505, True)
    print(f"grpc: {len(checks)} checks passed with grpcio {grpc.__version__}")


if __name__ == "__main__":
    main(sys.argv[1])
