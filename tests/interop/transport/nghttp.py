"""nghttp2's clients: one that shows what it gets, and one that asks a lot."""

import re
import subprocess


def run(house):
    auth = ["-H", f"authorization: Bearer {house.token}"]
    # Eight streams at once on one connection, with data for another, in a flow-control window that is nearly nothing.
    got = subprocess.run(
        ["nghttp", "-ns", "-w", "10", "-W", "12", "-m", "8", *auth, house.url("file")], capture_output=True, text=True, timeout=60
    )
    assert got.returncode == 0 and len(re.findall(r"\s200\s+1M\s", got.stdout)) == 8, got.stdout + got.stderr
    for version, streams in (("h2c", "10"), ("http/1.1", "1")):
        load = ["h2load", "-n", "10000", "-c", "20", "-m", streams, "-t", "1", "--connection-inactivity-timeout=20"]
        got = subprocess.run([*load, "--no-tls-proto=" + version, *auth, house.url("told")], capture_output=True, text=True, timeout=90)
        assert "10000 succeeded, 0 failed, 0 errored, 0 timeout" in got.stdout and "10000 2xx" in got.stdout, got.stdout + got.stderr
