"""Replay of a real gate's records; see run.sh."""

import collections
import http.client
import itertools
import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ROOT, Gate, Issuer

RECORDS = int(os.environ.get("RECORDS", "100000"))
SECONDS_MAX = 10
ROUNDS_MAX = 60

# What the candidate changes: another app comes in, one user is kept out, and one policy has another name.
CHAT, OTHER = "ExampleChatApplication", "OtherApplication"
IN_FORCE = '''
@id("own-data") permit (principal, action, resource)
when { context.token.callerApp == "ExampleChatApplication" && context has onBehalfOf && resource.owner == context.onBehalfOf };
@id("no-user-4") forbid (principal, action, resource == UserData::"user-4");
'''
CANDIDATE = '''
@id("own-data") permit (principal, action, resource)
when { ["ExampleChatApplication", "OtherApplication"].contains(context.token.callerApp) && context has onBehalfOf && resource.owner == context.onBehalfOf };
@id("no-user-3") forbid (principal, action, resource == UserData::"user-3");
@id("not-user-4") forbid (principal, action, resource == UserData::"user-4");
'''


def expected(record):
    """What becomes of a recorded decision, told from who asked for what alone."""
    # What is allowed may still fail at the end of the load, under another code.
    if record["decision"] != "allow" and record["code"] != "access_denied":
        return "elsewhere"
    asked = record["path"].split("/")[2]
    own = asked == record["user"]
    if asked == "user-3":
        return "narrower" if record["decision"] == "allow" else "policies"
    if asked == "user-4":
        return "policies"
    return "wider" if own and record["app"] == OTHER else "same"


def prepare(folder):
    for name, text in (("policies", IN_FORCE), ("candidate", CANDIDATE)):
        (folder / name).mkdir()
        (folder / name / "all.cedar").write_text(text)
    schema = (ROOT / "policies" / "schema.cedarschema").read_text()
    (folder / "policies" / "schema.cedarschema").write_text(schema)
    issuer = Issuer(folder)
    users = [{"sub": f"user-{number}", "username": "jane", "groups": []} for number in range(1, 5)]
    tokens = [issuer.token(onBehalfOf=user, callerApp=app) for user in users for app in (CHAT, OTHER)]
    paths = [f"/users/user-{number}/data" for number in range(1, 5)]
    return [*itertools.product(tokens, paths), (tokens[0], "/nowhere"), ("no.real.token", paths[0])]


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def few(gate, requests):
    """Each request, one after the other, on one connection where that stays."""
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=10)
    for token, path in requests:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        connection.getresponse().read()
    connection.close()


def many(gate, requests, folder):
    """The same requests again and again, by wrk, until there are records enough."""
    lines = "".join(f'  wrk.format("GET", "{path}", {{ ["Authorization"] = "Bearer {token}" }}),\n' for token, path in requests)
    script = folder / "requests.lua"
    script.write_text(
        f"local all, next = {{}}, 0\nfunction init(args) all = {{\n{lines}}} end\n"
        "function request() next = next % #all + 1; return all[next] end\n"
    )
    for _ in range(ROUNDS_MAX):
        load = ["wrk", "-t1", "-c8", "-d2s", "-s", str(script), f"http://127.0.0.1:{gate.port}"]
        subprocess.run(load, check=True, capture_output=True)
        with open(folder / "records.jsonl", "rb") as log:
            if sum(1 for _ in log) >= RECORDS:
                return
    raise AssertionError("records come too slowly")


def replay(binary, folder, log, policies, *more, fails=False):
    command = [binary, "replay", "--config", folder / "config.yaml", "--log", log, "--policies", folder / policies, "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return json.loads(done.stdout)


def counts(tally):
    assert tally["unreadable"] + tally["without_question"] + tally["other_keys"] + tally["unfaithful"] == 0, tally
    return {"same": tally["same"], "elsewhere": tally["before_policies"], **tally["changed"]}


def watched(binary, folder, log):
    """A replay with a terminal for what it says on stderr: how long it takes, on the clock and of processors, and what that
    shows."""
    ours, theirs = pty.openpty()
    began = time.monotonic()
    command = [binary, "replay", "--config", folder / "config.yaml", "--log", log, "--policies", folder / "candidate"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:
        pass  # The other end is closed.
    _, status, used = os.wait4(running.pid, 0)
    assert status == 0, shown
    return time.monotonic() - began, used.ru_utime + used.ru_stime, shown.decode()


def with_shadow(binary, folder):
    requests = prepare(folder)
    gate = Gate(binary, folder, "records: { questions: true }\nshadow: { policies: candidate }\n")
    try:
        gate.wait_until_ready()
        few(gate, requests * 4)
        shadow = {name: 0 for name in ("same", "wider", "narrower", "policies", "skipped")}
        deadline = time.monotonic() + 10
        while sum(shadow.values()) < len(requests) * 4 - 8 and time.monotonic() < deadline:
            shadow = {name: gate.metric(f'portcullis_shadow_decisions_total{{outcome="{name}"}}') for name in shadow}
    finally:
        gate.end()
    written = records(folder)
    should = collections.Counter(map(expected, written))
    tally = counts(replay(binary, folder, folder / "records.jsonl", "candidate"))
    assert tally == should, (tally, should)
    assert shadow.pop("skipped") == 0 and shadow == {name: should[name] for name in shadow}, (shadow, should)
    differing = [record for record in written if "shadow" in record]
    assert len(differing) == should["wider"] + should["narrower"] + should["policies"]
    print(f"shadow and replay agree on {len(written)} records: {tally}")
    return tally


def with_pseudonyms(binary, folder, clear):
    """`clear` is what comes of the same requests without pseudonyms."""
    requests = prepare(folder)
    (folder / "pseudonym.key").write_text("for tests only, 16 bytes or more\n")
    gate = Gate(binary, folder, "records: { questions: true, pseudonyms: { key: { file: pseudonym.key } } }\n")
    try:
        gate.wait_until_ready()
        few(gate, requests * 4)
    finally:
        gate.end()
    text = (folder / "records.jsonl").read_text()
    assert "user-1" not in text and "agent-1" not in text and "~" in text
    tally = counts(replay(binary, folder, folder / "records.jsonl", "candidate"))
    assert tally == clear, (tally, clear)
    print(f"under pseudonyms it is told the same: {tally}")


def at_length(binary, folder):
    requests = prepare(folder)
    gate = Gate(binary, folder, "records: { questions: true }\n")
    try:
        gate.wait_until_ready()
        many(gate, requests, folder)
    finally:
        gate.end()
    written = records(folder)[:RECORDS]
    log = folder / "first.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in written))
    should = collections.Counter(map(expected, written))
    same = counts(replay(binary, folder, log, "policies"))
    assert same == {"same": RECORDS - should["elsewhere"], "elsewhere": should["elsewhere"]}, same
    tally = counts(replay(binary, folder, log, "candidate"))
    assert tally == should, (tally, should)
    assert counts(replay(binary, folder, log, "candidate", "--forbid-widening", fails=True)) == should
    replay(binary, folder, log, "policies", "--forbid-widening")
    took, used, shown = watched(binary, folder, log)
    assert "%" in shown and "█" in shown, f"no progress bar: {shown!r}"
    # Two processors for so long: what else the machine does then makes no difference.
    assert used < 2 * SECONDS_MAX * RECORDS / 100_000, f"{RECORDS} records took {used:.1f} s of processors"
    size = log.stat().st_size / RECORDS
    print(f"{RECORDS} records of {size:.0f} bytes decided again in {took:.2f} s ({used:.2f} s of processors): {tally}")


def main():
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two, tempfile.TemporaryDirectory() as three:
        clear = with_shadow(binary, Path(one))
        with_pseudonyms(binary, Path(two), clear)
        at_length(binary, Path(three))


main()
