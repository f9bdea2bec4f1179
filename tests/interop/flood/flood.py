"""Good requests beside floods of bad ones; see run.sh."""

import collections
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ISSUER, ROOT, Gate, Issuer, b64
from keys import keys

SECONDS = int(os.environ.get("SECONDS_EACH", "2"))
TOKENS = 2_000
LOAD = ROOT / "benches" / "peers" / "load.lua"
# Far from what is usual, for machines are shared: these fail for what has gone wrong, not for what is slow.
GROWTH_MAX_MIB, P99_MAX_MS, RATIO_MAX = 48, 1_000, 20
# What good tokens may take, how many there are, and what each says: together they would take five times that.
REMEMBERED_MAX_MIB, GOOD_TOKENS, GROUPS = 8, 700, [f"g{number}" for number in range(150)]


def token(kid="k", **over):
    """Signed by nobody."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "api", "client_id": "agent-1", "sub": "agent-1", "iat": now, "exp": now + 3600, "jti": b64(secrets.token_bytes(12))}
    parts = ({"alg": "RS256", "typ": "JWT", "kid": kid}, {**claims, **over})
    return ".".join([*(b64(json.dumps(part).encode()) for part in parts), b64(secrets.token_bytes(256))])


# What each is made by, and the code of every record that it leaves.
FLOODS = {
    "bad signatures": (token, "signature_invalid"),
    "keys that the issuer does not have": (lambda: token(kid=b64(secrets.token_bytes(12))), "key_unknown"),
    "unknown issuers": (lambda: token(iss=f"https://{secrets.token_hex(8)}.example"), "issuer_unknown"),
    "tokens of 12 kB": (lambda: token(ballast=secrets.token_hex(4_500)), "token_malformed"),
}


def wrk(gate, connections, seconds, **environment):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(LOAD), f"http://127.0.0.1:{gate.port}"]
    environment = {**os.environ, "TARGET": "/users/user-1/data", **{name: str(value) for name, value in environment.items()}}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def told(load):
    """How many requests there were, how many were refused, and the 99th percentile in ms."""
    text, _ = load.communicate(timeout=SECONDS + 60)
    assert load.returncode == 0 and "Socket errors" not in text, text[:2000]
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    left = requests / 100
    for us, count in sorted(((int(us), int(count)) for us, count in re.findall(r"^latency (\d+) (\d+)$", text, re.M)), reverse=True):
        left -= count
        if left <= 0:
            return requests, int(refused.group(1)) if refused else 0, us / 1000


def good(gate, token):
    """The 99th percentile of requests of which none may fail."""
    requests, refused, p99 = told(wrk(gate, 8, SECONDS, TOKEN=token, THINK_MS=32))
    assert requests > 20 and not refused, f"{refused} of {requests} good requests failed"
    return p99


def memory_mib(gate):
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{gate.gate.pid}/status").read_text()).group(1)) / 1024


def codes(gate, since):
    with open(gate.folder / "records.jsonl") as records:
        records.seek(since)
        return collections.Counter(json.loads(line)["code"] for line in records)


def remembered(folder, issuer):
    """What is remembered of many good tokens takes no more than it may."""
    gate = Gate(sys.argv[1], folder, f"limits: {{ token_cache_bytes_max: {REMEMBERED_MAX_MIB * 2**20} }}\n")
    try:
        gate.wait_until_ready()
        mine = issuer.token()
        flood = wrk(gate, 32, SECONDS, TOKEN=mine)
        told(flood)
        before, since = memory_mib(gate), (folder / "records.jsonl").stat().st_size
        user = {"sub": "user-1", "username": "jane", "groups": GROUPS}
        (folder / "tokens").write_text("".join(issuer.token(jti=str(number), onBehalfOf=user) + "\n" for number in range(GOOD_TOKENS)))
        requests, refused, _ = told(wrk(gate, 8, SECONDS, TOKENS=folder / "tokens", AGAIN=1))
        assert requests > GOOD_TOKENS and not refused, f"{refused} of {requests} refused"
        growth = memory_mib(gate) - before
        print(f"good tokens: {growth:.1f} MiB of {REMEMBERED_MAX_MIB} for {GOOD_TOKENS} of them, {requests} requests")
        assert growth < REMEMBERED_MAX_MIB * 1.5, "more is remembered than may be"
        assert codes(gate, since).keys() == {"allowed"}
    finally:
        gate.end()


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuer = Issuer(folder)
        (folder / "policies").mkdir()
        for policy in ("schema.cedarschema", "users.cedar"):
            (folder / "policies" / policy).write_text((ROOT / "policies" / policy).read_text())
        remembered(folder, issuer)
        with keys(folder) as (port, asked):
            gate = Gate(sys.argv[1], folder, "", keys=f"jwks_uri: 'http://127.0.0.1:{port}/keys'")
            try:
                gate.wait_until_ready()
                began, mine = time.monotonic(), issuer.token()
                good(gate, mine)
                quiet = good(gate, mine)
                before = memory_mib(gate)
                for kind, (make, code) in FLOODS.items():
                    tokens, since = folder / "tokens", (folder / "records.jsonl").stat().st_size
                    tokens.write_text("".join(make() + "\n" for _ in range(TOKENS)))
                    flood = wrk(gate, 32, SECONDS + 1, TOKENS=tokens, AGAIN=1)
                    time.sleep(0.3)
                    p99 = good(gate, mine)
                    requests, refused, _ = told(flood)
                    assert requests == refused > TOKENS / 10, f"{kind}: {refused} of {requests} refused"
                    # wrk does not wait for its last answers.
                    found = codes(gate, since)
                    assert found.keys() <= {"allowed", "client_gone", code} and found[code] >= refused, f"{kind}: {found}"
                    print(f"{kind}: {requests} refused, p99 of good requests {quiet:.1f} -> {p99:.1f} ms ({p99 / quiet:.1f}x)")
                    assert p99 < max(P99_MAX_MS, quiet * RATIO_MAX), f"{kind}: good requests wait"
                growth = memory_mib(gate) - before
                # Once at the start, and when the cooldown is over once for a key that is asked for.
                most = 2 + (time.monotonic() - began) / 10
                print(f"flood: {growth:.0f} MiB more, keys asked for {len(asked)} times; {before:.0f} MiB before")
                assert growth < GROWTH_MAX_MIB, "memory grows with the flood"
                assert len(asked) <= most, "the issuer is asked because of the flood"
            finally:
                gate.end()


main()
