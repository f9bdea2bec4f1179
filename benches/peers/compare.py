"""What a request costs the gate, what it stands on, and what would stand in its place: all of them there, one asked at a time, in turns."""

import contextlib
import sys
import time

from measure import OTHERS, OURS, Case, middle

CASES = [
    Case("pass-through", plain=True),
    Case("hot RS256"),
    Case("hot ES256", algorithm="ES256"),
    Case("cold RS256", cold=True),
    Case("cold ES256", algorithm="ES256", cold=True),
    Case("denied", target=OTHERS, status=403),
    Case("bad signature", forged=True, status=401),
    Case("512 connections", connections=512),
    Case("1 MB down", large=True, connections=8),
    Case("1 MB up", method="PUT", body_bytes=1_000_000, connections=8),
    Case("1,000 requests/s", think_ms=64),
]
# Tokens with another one's signature, used again and again.
FORGED = 2_000
# What all of them have to do alike, so that it is compared with those that decide nothing.
FORWARDED = {"pass-through", "512 connections", "1 MB down", "1 MB up", "1,000 requests/s"}


def prove(peer, running, issuer):
    """Every peer decides the same, or its figures say nothing."""
    for algorithm in peer.algorithms:
        token = issuer.token(algorithm)
        told = {
            "good": (running.ask(OURS, token), 200),
            "another user's": (running.ask(OTHERS, token), 403),
            "without a token": (running.ask(OURS), 401),
            "without the scope": (running.ask(OURS, issuer.token(algorithm, scope="userData/read")), 403),
            "another app": (running.ask(OURS, issuer.token(algorithm, callerApp="Other")), 403),
            "another client": (running.ask(OURS, issuer.token(algorithm, client_id="other")), 401),
            "expired": (running.ask(OURS, issuer.token(algorithm, exp=int(time.time()) - 600)), 401),
            "another issuer": (running.ask(OURS, issuer.token(algorithm, iss="https://other.example")), 401),
        }
        if algorithm == "RS256":
            told["bad signature"] = (running.ask(OURS, next(issuer.forged([1]))), 401)
        # Some know 403 alone.
        wrong = {name: (is_, due) for name, (is_, due) in told.items() if is_ != due and not {is_, due} <= {401, 403}}
        if wrong:
            sys.exit(f"{peer.name}, {algorithm}: {wrong}")
    print(f"{peer.name} decides as it should", file=sys.stderr)


def serves(peer, case):
    if not peer.gates:
        return case.name in FORWARDED
    return case.algorithm in peer.algorithms and (peer.plain or not case.plain) and case.connections <= peer.connections_max


def compare(kinds, cases, options, folder, issuer, upstream):
    """Figures of each, a value for each round."""
    good, forged = {name: issuer.token(name) for name in ("RS256", "ES256")}, folder / "forged.tokens"
    forged.write_text("\n".join(issuer.forged(range(1, FORGED))) + "\n")
    figures = {kind: {"start_ms": [], "idle_mib": [], "peak_mib": [], "cases": {}} for kind in kinds}

    def start(kind, plain):
        running = kind.housed(folder).start(upstream, good["RS256"], plain)
        if not plain or not kind.gates:
            figures[kind]["start_ms"].append(running.start_ms)
            figures[kind]["idle_mib"].append(running.idle_mib)
        return running

    with contextlib.ExitStack() as stack:
        at_work = {}
        for peer in figures:
            for plain in {case.plain for case in cases if serves(peer, case)} | {not peer.gates}:
                at_work[peer, plain] = stack.enter_context(start(peer, plain))
            if peer.gates:
                prove(peer, at_work[peer, False], issuer)
        # The first round warms up, and is quick.
        for round_ in range(options.rounds + 1):
            for case in (case for case in cases if round_ or not case.cold):
                for peer in (peer for peer in figures if serves(peer, case)):
                    if case.cold:
                        with start(peer, False) as running:
                            running.rest()
                            measured = running.load(case, 1, TOKENS=folder / f"{case.algorithm}.tokens")
                            figures[peer]["peak_mib"].append(running.memory("VmHWM"))
                    else:
                        running = at_work[peer, case.plain or not peer.gates]
                        given = {"TOKENS": forged, "AGAIN": "1"} if case.forged else {"TOKEN": good[case.algorithm]}
                        measured = running.load(case, options.seconds if round_ else 1, **given)
                        figures[peer]["peak_mib"].append(running.memory("VmHWM"))
                    if round_:
                        figures[peer]["cases"].setdefault(case.name, []).append(measured)
                if round_:
                    print(f"round {round_}: {case.name}", file=sys.stderr)
    return [{"name": peer.name, "version": peer(folder).version(), "rival": peer.rival, "idle_mib": middle(of["idle_mib"]),
             "peak_mib": max(of["peak_mib"]), "start_ms": middle(of["start_ms"]),
             "cases": {name: [vars(it) for it in rounds] for name, rounds in of["cases"].items()}}
            for peer, of in figures.items()]

