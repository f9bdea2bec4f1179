"""What becomes of good requests at a fixed low rate while somebody floods the gate with others, each with a token of its own."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "interop"))

from keys import keys
from measure import Case, percentile, read, wrk
from peers import Portcullis

GOOD = Case("good", connections=16, think_ms=64)
# How long a connection of a flood rests between requests: as long as makes some thousand a second, or not at all.
PACES = {"paced": 12, "all it can": 0}
WARM_S = 0.3


@dataclass
class Flood:
    """`tokens` makes one of a serial number; `count` of them are used again and again, or, where there is none, each once."""

    name: str
    tokens: callable
    status: int = 401
    count: int = 5_000
    figures: dict = field(default_factory=dict)


def each(**over):
    """Over claims, by the serial number."""
    return lambda issuer, serials: (
        issuer.token("ES256", serial, **{name: of.format(serial) for name, of in over.items()}) for serial in serials)


FLOODS = [
    Flood("bad signatures", lambda issuer, serials: issuer.forged(serials, "ES256")),
    Flood("keys that the issuer does not have", each(kid="random-{}")),
    Flood("unknown issuers", each(iss="https://issuer-{}.example")),
    Flood("tokens of 24 kB", each(ballast="a" * 17_000 + "{}"), count=200),
    Flood("good tokens, each once", each(), status=200, count=0),
]


def attack(options, folder, issuer, upstream):
    """Figures of each flood, a value for each round: p99 of good requests at both paces, beside that without a flood."""
    seconds, serial = max(2, options.seconds), 10_000_000
    quiet = []
    with keys(folder) as (keys_port, asked):
        gate = Portcullis.housed(folder, keys=f"jwks_uri: 'http://127.0.0.1:{keys_port}/keys'")
        good = issuer.token()
        with gate.start(upstream, good) as running:
            running.load(GOOD, 1, TOKEN=good)
            idle = running.memory()
            began = time.monotonic()
            for _ in range(options.rounds):
                quiet.append(percentile(running.load(GOOD, seconds, TOKEN=good).latencies, 0.99))
                for flood in FLOODS:
                    for pace, think in PACES.items():
                        case = Case(flood.name, status=flood.status, think_ms=think)
                        count = flood.count or (9_000 if not think else 4_500) * (seconds + 1)
                        tokens = folder / f"{serial}.tokens"
                        tokens.write_text("\n".join(flood.tokens(issuer, range(serial, serial + count))) + "\n")
                        serial += count
                        before, fetches = running.memory(), len(asked)
                        load = wrk(gate.port, case, seconds + 1, TOKENS=tokens, AGAIN="1" if flood.count else None)
                        load["args"] = ["nice", "-n", "10", *load["args"]]
                        flooding = subprocess.Popen(**load, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                        time.sleep(WARM_S)
                        p99 = percentile(running.load(GOOD, seconds, TOKEN=good).latencies, 0.99)
                        told, _ = flooding.communicate(timeout=seconds + 60)
                        rate, *_ = read(case, told)
                        tokens.unlink()
                        figures = flood.figures.setdefault(pace, {"p99_ms": [], "rate": [], "mib_more": [], "fetches": []})
                        for name, value in (("p99_ms", p99), ("rate", rate), ("mib_more", running.memory() - before),
                                            ("fetches", len(asked) - fetches)):
                            figures[name].append(value)
                print("attack: a round", file=sys.stderr)
            return {"quiet_p99_ms": quiet, "idle_mib": idle, "peak_mib": running.memory("VmHWM"), "fetches": len(asked),
                    "seconds": time.monotonic() - began, "floods": {flood.name: flood.figures for flood in FLOODS}}
