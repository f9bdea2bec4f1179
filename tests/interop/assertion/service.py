"""A service that takes what the gate has allowed: `service.py FOLDER_OF_VERIFY PORT KEYS ISSUER AUDIENCE`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder, port, keys, issuer, audience = sys.argv[1:]
sys.path.insert(0, folder)
from verify import Verifier

VERIFIER = Verifier(keys, issuer, audience)


class Service(BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        assertion = self.headers.get("x-portcullis-assertion", "")
        try:
            claims = VERIFIER.allowed(assertion, self.command, self.path, body)
            status, told = 200, {"sub": claims["sub"], "assertion": assertion}
        except Exception as error:
            status, told = 403, {"refused": str(error)}
        told = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(port)), Service).serve_forever()
