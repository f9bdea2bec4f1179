"""How many instructions a request takes in user space, and how often the processor waits for what is not in its caches, as valgrind
simulates them: what processors tell of that themselves, machines that are shared do not."""

import re
import subprocess
import sys
import time
from pathlib import Path

from compare import CASES
from peers import Asking, Floor, Portcullis

# Of today's servers: for code, for data, and the second for both.
CACHES = ["--I1=32768,8,64", "--D1=49152,12,64", "--LL=2097152,16,64"]
SECONDS = 8
# What is told of each request, and the events that callgrind counts of it.
FIGURES = {
    "instructions": ["Ir"],
    "code not in the first cache": ["I1mr"],
    "data not in the first cache": ["D1mr", "D1mw"],
    "not in the second either": ["ILmr", "DLmr", "DLmw"],
    "branches guessed wrongly": ["Bcm", "Bim"],
}
ASKED = [(Floor, "pass-through"), (Portcullis, "hot RS256"), (Asking, "hot RS256")]


def misses(options, folder, issuer, upstream):
    """Figures of a request for each of what is asked."""
    asked = [(kind, next(it for it in CASES if it.name == case)) for kind, case in ASKED if options.floor or kind is not Floor]
    return [{"name": kind.name, "case": case.name, **counted(kind, case, folder, issuer, upstream)} for kind, case in asked]


def counted(kind, case, folder, issuer, upstream):
    gate, token = kind.housed(folder), issuer.token(case.algorithm)
    given = {"TOKEN": token} if gate.gates else {}
    counting = ["valgrind", "--tool=callgrind", "--cache-sim=yes", "--branch-sim=yes", "--fair-sched=yes", *CACHES,
                f"--callgrind-out-file={gate.folder}/counted"]
    with gate.start(upstream, token, before=counting) as running:
        running.load(case, 2, **given)
        control(running, "--zero")
        requests = running.load(case, SECONDS, **given).requests
        control(running, "--dump")
        told = read(gate.folder)
    print(f"{kind.name}, {case.name}: counted", file=sys.stderr)
    return {figure: sum(told[event] for event in events) / requests for figure, events in FIGURES.items()}


def control(running, what):
    subprocess.run(["callgrind_control", what, str(running.process.pid)], check=True, capture_output=True, timeout=60)


def read(folder: Path):
    """The counts of the first dump, as soon as it is whole."""
    for _ in range(100):
        for dump in folder.glob("counted*.1"):
            if totals := re.search(r"^totals: (.*)", text := dump.read_text(), re.M):
                return dict(zip(re.search(r"^events: (.*)", text, re.M)[1].split(), map(int, totals[1].split())))
        time.sleep(0.2)
    sys.exit("callgrind wrote nothing")
