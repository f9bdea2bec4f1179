"""Reload under load; see run.sh."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ROOT, Gate, Issuer

SECONDS = int(os.environ.get("SECONDS_EACH", "4"))
POLICIES = int(os.environ.get("POLICIES", "10000"))
ROUNDS = 3


def policies(version):
    """As many as there are to be, none of which applies but the repository's own."""
    one = '@id("p{0}") permit (principal == Agent::"agent-{0}x{1}", action, resource);\n'
    return "".join(one.format(number, version) for number in range(POLICIES))


class Changing(Gate):
    """A gate whose policies change."""

    def __init__(self, binary, folder):
        self.token = Issuer(folder).token()
        (folder / "policies" / "many").mkdir(parents=True)
        for name in ("schema.cedarschema", "users.cedar"):
            (folder / "policies" / name).write_text((ROOT / "policies" / name).read_text())
        self.change(folder, 0)
        super().__init__(binary, folder, "")

    @staticmethod
    def change(folder, version):
        new = folder / "policies" / "new"
        new.write_text(policies(version))
        new.rename(folder / "policies" / "many" / "many.cedar")

    def reloads(self):
        return self.metric('portcullis_reloads_total{outcome="good"}')

    def load(self):
        """Starts a round of load."""
        url = f"http://127.0.0.1:{self.port}/users/user-1/data"
        load = ["wrk", "-t1", "-c8", f"-d{SECONDS}s", "--latency", "-H", f"Authorization: Bearer {self.token}", url]
        return subprocess.Popen(load, stdout=subprocess.PIPE, text=True)


def figures(load):
    text, _ = load.communicate(timeout=SECONDS + 60)
    assert load.returncode == 0, text
    failures = re.findall(r"Non-2xx.*|Socket errors.*", text)
    assert not failures, f"requests failed: {failures}\n{text}"
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    return rate, float(p99.group(1)) * {"us": 1, "ms": 1000, "s": 1_000_000}[p99.group(2)]


def main():
    with tempfile.TemporaryDirectory() as name:
        gate = Changing(sys.argv[1], Path(name))
        try:
            gate.wait_until_ready()
            figures(gate.load())
            ratios, took = [], []
            for round in range(1, ROUNDS + 1):
                quiet_rate, quiet = figures(gate.load())
                before, load = gate.reloads(), gate.load()
                time.sleep(1)
                gate.change(gate.folder, round)
                began = time.monotonic()
                while gate.reloads() == before:
                    assert time.monotonic() - began < 60, "the change is never in force"
                    time.sleep(0.02)
                took.append(time.monotonic() - began)
                rate, busy = figures(load)
                ratios.append(busy / quiet)
                print(
                    f"round {round}: {POLICIES} policies in force after {took[-1]:.2f} s; p99 {quiet:.0f} -> {busy:.0f} us "
                    f"({ratios[-1]:.2f}x), {quiet_rate:.0f} -> {rate:.0f} requests/s, none failed"
                )
            print(
                f"reload: {statistics.median(took):.2f} s from the change of a file to its being in force (looking and settling "
                f"included), p99 {statistics.median(ratios):.2f}x that of quiet rounds, medians of {ROUNDS}"
            )
            # Far from what is usual, for machines are shared: these fail for what has gone wrong, not for what is slow.
            assert statistics.median(took) < 6, "reloads take too long"
            assert statistics.median(ratios) < 5, "requests wait for reloads"
        finally:
            gate.end()


main()
