"""Portcullis beside its peers, as it grows, under attack, and by what it makes the processor wait for; see run.sh."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import peers
import report
from attack import attack
from compare import CASES, compare
from growth import TABLES, growth
from measure import allow_many_files, machine, service
from misses import misses
from tokens import Issuer


def chosen(all_of_them, names, of=str):
    wanted = names.lower().split(",") if names else [""]
    return [it for it in all_of_them if any(of(it).lower().startswith(name) for name in wanted)]


def read_options():
    options = argparse.ArgumentParser()
    options.add_argument("binary")
    options.add_argument("--floor", help="the program that forwards without a gate")
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--seconds", type=int, default=1, help="how long each case is asked in a round")
    options.add_argument("--tokens", type=int, default=10_000, help="that are each used once, where tokens are cold")
    options.add_argument("--parts", help="of peers, growth, attack, misses; all by default")
    options.add_argument("--peers", help="those that are compared, as their names begin; all by default")
    options.add_argument("--cases", help="the same of cases")
    options.add_argument("--growth", help="the same of what there is more and more of")
    options.add_argument("--express", help="a folder with what express/package-lock.json names")
    options.add_argument("--node", default="node")
    options.add_argument("--agentgateway", help="its binary, to compare that too")
    options.add_argument("--out", help="a file for the figures, in JSON")
    options.add_argument("--docs", action="store_true", help="writes docs/benchmarks.md")
    return options.parse_args()


def main():
    options = read_options()
    absolute = lambda path: str(Path(path).resolve())
    peers.Portcullis.binary = absolute(options.binary)
    peers.Express.home, peers.Express.node = Path(options.express or "."), options.node
    peers.Floor.floor = options.floor and absolute(options.floor)
    peers.AgentGateway.binary = options.agentgateway and absolute(options.agentgateway)
    there = [kind for kind in peers.ALL if not (issubclass(kind, peers.Floor) and not options.floor)]
    there = [kind for kind in there if kind is not peers.AgentGateway or options.agentgateway]
    allow_many_files()
    result = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "version": peers.said(options.binary, "--version"),
              "rounds": options.rounds, "seconds": options.seconds, "tokens": options.tokens}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuer = Issuer(folder)
        with service(folder) as upstream:
            given = (options, folder, issuer, upstream)
            measured = {"peers": lambda: beside(there, *given), "growth": lambda: growth(chosen(TABLES, options.growth), *given),
                        "attack": lambda: attack(*given), "misses": lambda: misses(*given)}
            for part in chosen(report.PARTS, options.parts):
                result[part] = measured[part]()
                tell(part, result, options)


def beside(there, options, folder, issuer, upstream):
    """Those of `there` that are chosen."""
    cases = chosen(CASES, options.cases, lambda it: it.name)
    cold_tokens({case.algorithm for case in cases if case.cold}, options, folder, issuer)
    return compare(chosen(there, options.peers, lambda it: it.name), cases, options, folder, issuer, upstream)


def cold_tokens(algorithms, options, folder, issuer):
    for algorithm in algorithms:
        lines = (issuer.token(algorithm, serial) for serial in range(10, 10 + options.tokens))
        (folder / f"{algorithm}.tokens").write_text("\n".join(lines) + "\n")


def tell(part, result, options):
    """Of each part as soon as it is measured."""
    print(report.PARTS[part](result), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1))
    if options.docs:
        report.write(part, result)
        print(f"docs/benchmarks.md: {part} is written", file=sys.stderr)


main()
