"""What a request costs the gate, and what memory it takes, when there is more and more of something. What is compared is there at one time,
and asked in turns."""

import contextlib
import json
import sys
from dataclasses import dataclass, field, replace

from measure import LOAD_CORE, PROXY_CORE, Case, middle
from peers import Portcullis

HOT = Case("hot RS256")
TOKENS = Case("hot ES256", algorithm="ES256")
# Tokens that are used at a time, before they are remembered.
SOME = 5_000


@dataclass
class Size:
    """A gate in which there are `count` of something, by what is `set` of it."""

    count: int
    set: dict = field(default_factory=dict)
    case: Case = HOT
    cores: str = PROXY_CORE
    tokens: int = 0
    entities: list = None
    figures: dict = field(default_factory=dict)


def policies(count):
    """None of them but the repository's own applies."""
    one = '@id("p{0}") permit (principal == Agent::"agent-{0}", action, resource);\n'
    return Size(count, {"policies": "".join(map(one.format, range(count)))})


def routes(count):
    one = "  - {{ methods: [GET], path: '/things/{0}/of/{{id}}', action: readOnly, resource: 'UserData::\"{{path.id}}\"',\n" \
          "      attributes: {{ owner: 'User::\"{{path.id}}\"' }} }}\n"
    return Size(count, {"routes": "".join(map(one.format, range(count - 1)))})


def issuers(count):
    """Where there are several each has names of its own for agents and users."""
    named = ", agent_id_prefix: {0}, user_id_prefix: {0}"
    one = "  - oidc_generic: {{ issuer: 'https://{0}.example', audiences: [api], jwks_file: keys.json" + named + " }}\n"
    others = "".join(one.format(f"issuer-{number}") for number in range(count - 1))
    return Size(count, {"issuers": others, "named": named.format("agents"), "user_prefix": "agents|"})


def entities(count):
    """Users whom nobody asks for."""
    users = [{"uid": {"type": "User", "id": f"u-{i}"}, "attrs": {"username": f"name-{i}", "groups": ["readaccess"]}, "parents": []}
             for i in range(count)]
    return Size(count, {"more": "entities: { files: [entities.json] }\n"}, entities=users)


def tokens(count):
    """All of them remembered."""
    more = "limits: { tokens_cached_max: 200000, token_cache_bytes_max: 4294967296, connections_per_peer_max: 10000 }\n"
    return Size(count, {"settings": more}, TOKENS, tokens=count)


def connections(count):
    return Size(count, case=replace(HOT, connections=count))


def cores(count):
    return Size(count, cores=PROXY_CORE if count == 1 else f"{PROXY_CORE},{LOAD_CORE}")


# Of what there is more and more, how much, and up to what share of the first row's processor time the last one's is flat.
TABLES = {
    "policies": (policies, [1, 10, 100, 1_000, 10_000, 100_000], 2.0),
    "routes": (routes, [1, 10, 1_000, 10_000], 1.2),
    "issuers": (issuers, [1, 16, 100], 1.2),
    "entities": (entities, [1, 100, 10_000, 100_000], 1.2),
    "tokens": (tokens, [1, 1_000, 10_000, 100_000], 1.2),
    "connections": (connections, [64, 512, 4_096], 2.0),
    "cores": (cores, [1, 2], 1.2),
}


def start(size, folder, issuer, upstream, stack):
    gate = Portcullis.housed(folder, **size.set)
    if size.entities is not None:
        (gate.folder / "entities.json").write_text(json.dumps(size.entities))
    running = stack.enter_context(gate.start(upstream, issuer.token(), cores=size.cores))
    running.rest()
    size.figures.update(start_ms=running.start_ms, idle_mib=running.memory(), cpu_us=[], rate=[])
    return running


def fill(size, running, folder, tokens):
    """Each token once, so that all are remembered, some thousands at a time."""
    before = running.memory()
    some = folder / "some.tokens"
    for first in range(0, size.tokens, SOME):
        lines = tokens[first:min(first + SOME, size.tokens)]
        some.write_text("\n".join(lines) + "\n")
        # Long enough for whoever needs a millisecond for each. wrk does not count its last answers.
        asked = running.load(size.case, 1 + len(lines) // 1_000, TOKENS=some).requests
        if asked < 0.9 * len(lines):
            sys.exit(f"tokens: only {asked} of {len(lines)} were asked with")
    size.figures["bytes_each"] = (running.memory() - before) * 1024 * 1024 / size.tokens


def growth(names, options, folder, issuer, upstream):
    """A table for each."""
    result = {}
    for name in names:
        make, counts, bound = TABLES[name]
        many = []
        if name == "tokens":
            many = [issuer.token("ES256", serial) for serial in range(1_000_000, 1_000_000 + counts[-1])]
        with contextlib.ExitStack() as stack:
            at_work = []
            for size in map(make, counts):
                running = start(size, folder, issuer, upstream, stack)
                load = {"TOKEN": issuer.token(size.case.algorithm)}
                if size.tokens > 1:
                    fill(size, running, folder, many)
                    load = {"TOKENS": folder / f"{size.tokens}.tokens", "AGAIN": "1"}
                    load["TOKENS"].write_text("\n".join(many[:size.tokens]) + "\n")
                running.load(size.case, 1, **load)
                at_work.append((size, running, load))
            for _ in range(options.rounds):
                for size, running, load in at_work:
                    measured = running.load(size.case, options.seconds, **load)
                    size.figures["cpu_us"].append(measured.cpu_us)
                    size.figures["rate"].append(measured.rate)
            for size, running, _ in at_work:
                size.figures["peak_mib"] = running.memory("VmHWM")
        rows = [{"count": size.count, **size.figures} for size, *_ in at_work]
        ratios = [last / first for first, last in zip(rows[0]["cpu_us"], rows[-1]["cpu_us"])]
        result[name] = {"rows": rows, "ratio": middle(ratios), "bound": bound}
        print(f"growth: {name}", file=sys.stderr)
    return result
