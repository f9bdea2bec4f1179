"""curl: every version of HTTP, and what a client may do in it."""

import json
import subprocess

FORM = {"status": "%{http_code}", "version": "%{http_version}", "connects": "%{num_connects}", "sent": "%{size_upload}"}


class Curl:
    """What curl says of one or several requests on one connection; `bodies` is all that came."""

    def __init__(self, *arguments, given=None, codes=(0,)):
        form = json.dumps(FORM) + "\n"
        command = ["curl", "-sS", "-v", "--max-time", "20", "-w", "%{stderr}@@" + form, *arguments]
        run = subprocess.run(command, input=given, capture_output=True, timeout=60)
        self.log, self.bodies = run.stderr.decode(errors="replace"), run.stdout
        assert run.returncode in codes, f"{command}: {run.returncode}\n{self.log}"
        self.all = [json.loads(line[2:]) for line in self.log.splitlines() if line.startswith("@@")]

    def __getattr__(self, name):
        return self.all[-1][name]


def trusted(house):
    return ["--cacert", f"{house.folder}/ca.pem"]


def shown(house):
    return [*trusted(house), "--cert", f"{house.folder}/client.pem", "--key", f"{house.folder}/client.key"]


def versions(house, auth):
    for version, over, url in [
        ("1.1", ["--http1.1"], house.url("file")),
        ("2", ["--http2-prior-knowledge"], house.url("file")),
        # An upgrade to HTTP/2 is not taken up, and does no harm.
        ("1.1", ["--http2"], house.url("file")),
        ("1.1", ["--http1.1", *shown(house)], house.tls_url("file")),
        ("2", ["--http2", *shown(house)], house.tls_url("file")),
    ]:
        got = Curl(*over, *auth, url)
        assert (got.status, got.version, len(got.bodies)) == ("200", version, 1 << 20), (over, got.all)
    # TLS 1.3 tells a client that it should have shown a certificate once it sends, or reads.
    assert not Curl(*trusted(house), *auth, house.tls_url("file"), codes=(55, 56)).bodies


def expectations(house, auth):
    body = b"x" * 200_000
    expects = ["--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "15", "--data-binary", "@-"]
    got = Curl(*expects, *auth, house.url("sink"), given=body)
    assert (got.status, got.bodies) == ("200", b"200000") and "HTTP/1.1 100 " in got.log, got.log
    refused = Curl(*expects, house.url("sink"), given=body)
    assert (refused.status, refused.sent) == ("401", "0") and "HTTP/1.1 100 " not in refused.log, refused.log


def bodies(house, auth):
    for version in ("--http1.1", "--http2-prior-knowledge"):
        got = Curl(version, *auth, "-T", "-", house.url("sink"), given=b"y" * 3_000_000)
        assert (got.status, got.bodies) == ("200", b"3000000"), got.all
        got = Curl(version, *auth, "-r", "250-260", house.url("file"))
        assert (got.status, got.bodies) == ("206", bytes([*range(250, 256), *range(5)])), got.all
        got = Curl(version, *auth, "-r", "9999999-", house.url("file"))
        assert got.status == "416", got.all
        got = Curl(version, *auth, "-I", house.url("file"))
        assert got.status == "200" and b"content-length: 1048576" in got.bodies.lower(), got.bodies


def limits(house, auth):
    for version in ("--http1.1", "--http2-prior-knowledge"):
        got = Curl(version, *auth, *(f"-HX-{name}: {'a' * 5000}" for name in range(8)), house.url("told"))
        assert got.status == "431", got.all
        got = Curl(version, *auth, house.url("file?" + "q" * 5000))
        assert got.status == "414", got.all


def kept(house, auth):
    """A refusal, an answer, a refusal: one connection. (curl 7.88 cannot use one twice with prior knowledge, nginx's neither.)"""
    users = ("user-2", "user-1", "user-3", "user-1")
    for over, url in ((["--http1.1"], house.url), (["--http2", *shown(house)], house.tls_url)):
        got = Curl(*over, *auth, *(url("told", user) for user in users))
        assert [(it["status"], it["connects"]) for it in got.all] == [("403", "1"), ("200", "0"), ("403", "0"), ("200", "0")], got.all
        assert b"user-1 " in got.bodies and house.token.encode() not in got.bodies, "the upstream sees who, and no token"


def run(house):
    auth = ["-H", f"Authorization: Bearer {house.token}"]
    for check in (versions, expectations, bodies, limits, kept):
        check(house, auth)
