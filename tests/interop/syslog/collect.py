"""Records go to a real rsyslogd; run.sh tells how to start it."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate import ROOT, Gate, Issuer, free_port  # noqa: E402

REQUESTS = 200


class Collector:
    """An rsyslogd that writes the messages it gets to `collected`, in `folder`."""

    def __init__(self, folder, way):
        self.folder, self.port = folder, free_port()
        socket_path = folder / "log.sock"
        load, self.to = {
            "unix": (f'module(load="imuxsock" SysSock.Use="off")\ninput(type="imuxsock" Socket="{socket_path}" '
                     'RateLimit.Interval="0" UseSpecialParser="off" UsePIDFromSystem="off")', f"unix:{socket_path}"),
            "udp": (f'module(load="imudp")\ninput(type="imudp" address="127.0.0.1" port="{self.port}")',
                    f"udp://127.0.0.1:{self.port}"),
            "tcp": (f'module(load="imtcp")\ninput(type="imtcp" address="127.0.0.1" port="{self.port}")',
                    f"tcp://127.0.0.1:{self.port}"),
        }[way]
        self.way = way
        (folder / "rsyslog.conf").write_text(
            f'global(workDirectory="{folder}" maxMessageSize="64k")\n{load}\n'
            'template(name="all" type="string" string="%app-name% %msgid% %syslogfacility-text% %syslogseverity-text% %msg%\\n")\n'
            f'action(type="omfile" file="{folder}/collected" template="all")\n'
        )
        self.start()

    def start(self):
        command = [shutil.which("rsyslogd") or "/usr/sbin/rsyslogd", "-n", "-C", "-f", str(self.folder / "rsyslog.conf"),
                   "-i", str(self.folder / "rsyslog.pid")]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 20
        while not self.listens():
            assert time.monotonic() < deadline and self.process.poll() is None, "rsyslogd does not start"
            time.sleep(0.05)

    def listens(self):
        if self.way == "tcp":
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            except OSError:
                return False
        if self.way == "unix":
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as it:
                return it.connect_ex(str(self.folder / "log.sock")) == 0
        line = f"0100007F:{self.port:04X}"
        return line in Path("/proc/net/udp").read_text()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0

    def ids(self):
        """The ids of decisions that were collected."""
        path = self.folder / "collected"
        ids = []
        for line in path.read_text().splitlines() if path.exists() else []:
            if not line.startswith("portcullis decision "):
                continue  # What rsyslogd says of itself.
            name, msgid, facility, severity, message = line.split(" ", 4)
            assert (facility, severity) == ("authpriv", "info"), line
            ids.append(json.loads(message)["decision_id"])
        return ids


def ask(gate, times, token):
    """Asks so often, by a long path now and then; returns the ids of the decisions."""
    ids = []
    for number in range(times):
        path = "/users/user-1/data" if number % 10 else "/users/" + "x" * 900
        request = urllib.request.Request(f"http://127.0.0.1:{gate.port}{path}", headers={"authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                ids.append(answer.headers["x-portcullis-decision"])
        except urllib.error.HTTPError as answer:
            ids.append(json.loads(answer.read())["decision_id"])
    return ids


def counts(gate):
    return tuple(int(gate.metric(f'portcullis_records_{what}_total{{sink="syslog"}}')) for what in ("written", "dropped"))


def wait_until(what, is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def through(binary, way):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "policies", folder / "policies")
        token = Issuer(folder).token()
        collector = Collector(folder, way)
        gate = Gate(binary, folder, f"records: {{ questions: true, syslog: {{ to: '{collector.to}', message_bytes_max: 60000 }} }}\n")
        try:
            gate.wait_until_ready()
            ask(gate, REQUESTS, token)
            wait_until("every record arrives", lambda: len(collector.ids()) == REQUESTS)
            assert counts(gate) == (REQUESTS, 0), counts(gate)
            collector.stop()
            ask(gate, REQUESTS, token)
            wait_until("each is counted", lambda: sum(counts(gate)) == 2 * REQUESTS)
            written, dropped = counts(gate)
            if way != "udp":  # Where a datagram gets lost nobody is told for sure.
                assert (written, dropped) == (REQUESTS, REQUESTS), (written, dropped)
            collector.start()
            time.sleep(1.5)  # The longest that the gate needs to notice.
            ask(gate, REQUESTS, token)
            wait_until("each is counted", lambda: sum(counts(gate)) == 3 * REQUESTS)
            arrived = counts(gate)[0] if way != "udp" else 2 * REQUESTS
            wait_until("every record arrives again", lambda: len(collector.ids()) >= arrived - (way == "udp"))
            records = [json.loads(line)["decision_id"] for line in (folder / "records.jsonl").read_text().splitlines()]
            ids = collector.ids()
            assert len(set(ids)) == len(ids) and set(ids) <= set(records), "no record arrives twice, or another one"
            assert set(records[:REQUESTS]) <= set(ids)
            print(f"{way}: {len(ids)} of {len(records)} records arrived, {counts(gate)[1]} are counted as dropped")
        finally:
            gate.end()
            if collector.process.poll() is None:
                collector.stop()


def main():
    for way in ("unix", "udp", "tcp"):
        through(sys.argv[1], way)


main()
