"""Figures as people read them: tables, a plot, and what became of the aims, written to docs/benchmarks.md between its marks."""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from measure import middle, percentile

DOCS = Path(__file__).resolve().parents[2] / "docs"
GATE, ASKING, FLOOR = "Portcullis", "Portcullis, with a policy", "its listener"
BEST = "the best peer"


@dataclass(frozen=True)
class Aim:
    """That processor time of `gate` in `case` is at most `most` times that of `other` in `others_case`."""

    what: str
    case: str
    most: float
    other: str
    others_case: str = ""
    gate: str = GATE


AIMS = [
    Aim("a hot token, beside the best peer", "hot RS256", 0.65, BEST),
    Aim("a hot token, beside no gate", "hot RS256", 1.40, FLOOR, "pass-through", ASKING),
    Aim("the same request again, beside no gate", "hot RS256", 1.15, FLOOR, "pass-through"),
    Aim("a cold token, RS256", "cold RS256", 1.0, BEST),
    Aim("a cold token, ES256, beside agentgateway, which always verifies", "cold ES256", 0.85, "agentgateway", "hot ES256"),
    Aim("denied", "denied", 0.70, "Envoy"),
    Aim("a bad signature", "bad signature", 1.0, BEST),
    Aim("512 connections", "512 connections", 0.60, BEST),
    Aim("what a service's developer would write", "hot RS256", 1 / 15, "Express"),
    Aim("1 MB down, beside no gate", "1 MB down", 1.02, FLOOR),
    Aim("1 MB up, beside no gate", "1 MB up", 1.02, FLOOR),
]
# What, of which figure, and how much at most.
OWN_AIMS = [("MiB idle", "idle_mib", 20), ("MiB under load", "peak_mib", 60), ("ms from start to the first request let through", "start_ms", 50)]
CPU_CASES = ["pass-through", "hot RS256", "hot ES256", "cold RS256", "cold ES256", "denied", "bad signature", "512 connections",
             "1 MB down", "1 MB up"]
RATE_CASES = ["hot RS256", "denied", "1 MB down", "1 MB up"]
PACED = "1,000 requests/s"
PLOTTED = ["pass-through", "hot RS256", "cold RS256", "denied", "bad signature"]
# Of good requests' 99th percentile under a flood, beside that without one.
FLOODED_MOST = 2.0


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def values(peer, case, figure="cpu_us"):
    return [round_[figure] for round_ in peer["cases"].get(case, [])]


def spread(found, digits=0):
    if not found:
        return ""
    low, mid, high = (f"{it:,.{digits}f}" for it in (min(found), middle(found), max(found)))
    return mid if low == high else f"**{mid}** {low}–{high}"


def named(peers, name):
    return next((peer for peer in peers if peer["name"] == name), None) or next(
        (peer for peer in peers if peer["name"].startswith(name + ",") or peer["name"].startswith(name + " ")), None)


def opponent(peers, aim):
    case = aim.others_case or aim.case
    if aim.other != BEST:
        other = named(peers, aim.other)
        return (other, case) if other and values(other, case) else (None, case)
    rivals = [peer for peer in peers if peer["rival"] and values(peer, case)]
    return min(rivals, key=lambda peer: middle(values(peer, case)), default=None), case


def verdict(is_met):
    return "met" if is_met else "**missed**"


def aims(peers):
    rows = []
    for aim in AIMS:
        gate, (other, case) = named(peers, aim.gate), opponent(peers, aim)
        most = f"≤ {aim.most:.2f}" if aim.most > 0.1 else f"≤ 1/{1 / aim.most:.0f}"
        if not gate or not other or not values(gate, aim.case):
            rows.append([aim.what, most, aim.other, "", "not measured"])
            continue
        # Round by round: what disturbs the machine disturbs both.
        ratio = middle([one / its for one, its in zip(values(gate, aim.case), values(other, case))])
        rows.append([aim.what, most, f"{other['name'].partition(',')[0]}, {case}", f"{ratio:.2f}", verdict(ratio <= aim.most)])
    gate = named(peers, GATE)
    if gate:
        rows += [[what, f"≤ {most}", "", f"{gate[figure]:.0f}", verdict(gate[figure] <= most)] for what, figure, most in OWN_AIMS]
    return table(["aim", "", "beside", "measured", ""], rows)


def latencies(peer):
    """Of all rounds together."""
    together = {}
    for round_ in peer["cases"].get(PACED, []):
        for us, count in round_["latencies"].items():
            together[int(us)] = together.get(int(us), 0) + count
    return [f"{percentile(together, part):.2f}" if together else "" for part in (0.5, 0.99, 0.999)]


def compared(result):
    peers = result["peers"]
    label = lambda peer: f"{peer['name']} {peer['version']}"
    cpu = [[label(peer), *(spread(values(peer, case)) for case in CPU_CASES)] for peer in peers]
    more = [[label(peer), *(spread(values(peer, case, "rate")) for case in RATE_CASES), *latencies(peer),
             f"{peer['idle_mib']:.0f}", f"{peer['peak_mib']:.0f}", f"{peer['start_ms']:.0f}"] for peer in peers]
    return (
        "Processor time in µs for a request (median of the rounds, least and most):\n\n" + table(["", *CPU_CASES], cpu)
        + "\n![Processor time for a request, by case and program](benchmarks.svg)\n\n"
        + f"Requests a second on the one core, milliseconds at {PACED}, memory, and how long until the first request is let through:\n\n"
        + table(["", *(f"{case}, /s" for case in RATE_CASES), "p50 ms", "p99 ms", "p99.9 ms", "MiB idle", "MiB peak", "start, ms"], more)
        + "\nThe aims:\n\n" + aims(peers)
    )


def grown(result):
    text = []
    for name, found in result["growth"].items():
        rows, has_each = found["rows"], any("bytes_each" in row for row in found["rows"])
        head = [name, "µs for a request", "MiB before load", "MiB peak", "start, ms"] + (["bytes for each token"] if has_each else [])
        cells = [[f"{row['count']:,}", spread(row["cpu_us"], 1), f"{row['idle_mib']:.0f}", f"{row['peak_mib']:.0f}",
                  f"{row['start_ms']:,.0f}"] + ([f"{row['bytes_each']:,.0f}" if "bytes_each" in row else ""] if has_each else [])
                 for row in rows]
        is_met = found["ratio"] <= found["bound"]
        text.append(table(head, cells) + f"\nLast beside first: {found['ratio']:.2f}, at most {found['bound']} is the aim: {verdict(is_met)}.\n")
    return "\n".join(text)


def attacked(result):
    found = result["attack"]
    quiet, rows = found["quiet_p99_ms"], []
    for name, paces in found["floods"].items():
        cells = [name]
        for figures in paces.values():
            ratio = middle([p99 / of for p99, of in zip(figures["p99_ms"], quiet)])
            cells += [f"{middle(figures['rate']):,.0f}", f"{middle(figures['p99_ms']):.2f}", f"{ratio:.1f}"]
        # The first round: later ones find room that was made before.
        cells += [f"{sum(of['mib_more'][0] for of in paces.values()):.0f}", sum(sum(of["fetches"]) for of in paces.values())]
        paced = next(iter(paces.values()))
        is_met = middle([p99 / of for p99, of in zip(paced["p99_ms"], quiet)]) <= FLOODED_MOST
        rows.append([*cells, verdict(is_met)])
    head = ["flood", "paced, /s", "p99 ms", "× quiet", "all it can, /s", "p99 ms", "× quiet", "MiB more", "fetches of keys", "paced: × quiet ≤ 2"]
    return (
        table(head, rows) + f"\nWithout a flood the p99 is {middle(quiet):.2f} ms ({min(quiet):.2f}–{max(quiet):.2f}). The gate had "
        f"{found['idle_mib']:.0f} MiB before and {found['peak_mib']:.0f} MiB at most, and asked for keys {found['fetches']} times in "
        f"{found['seconds']:.0f} s.\n"
    )


def missed(result):
    found = result["misses"]
    figures = [name for name in found[0] if name not in ("name", "case")]
    return table(["", "", *figures], [[of["name"], of["case"], *(f"{of[figure]:,.0f}" for figure in figures)] for of in found])


PARTS = {"peers": compared, "growth": grown, "attack": attacked, "misses": missed}


def plot(peers):
    """Bars, a panel for each case, with lines from the least to the most of the rounds."""
    width, left, bar, gap, lines = 900, 330, 16, 6, []
    y = 10
    for case in PLOTTED:
        shown = [(peer["name"], values(peer, case)) for peer in peers if values(peer, case)]
        if not shown:
            continue
        lines.append(f'<text x="10" y="{y + 16}" class="case">{escape(case)}, µs for a request</text>')
        y += 26
        # Beyond three times what most cost, a bar is cut off.
        top = min(max(max(found) for _, found in shown), 3 * middle([middle(found) for _, found in shown]))
        across = lambda us: left + min(us / top, 1) * (width - left - 70)
        for name, found in shown:
            mid, end = middle(found), across(middle(found))
            kind = "gate" if name.startswith(GATE) else "floor" if name.startswith((FLOOR, "pingora")) else "peer"
            lines += [
                f'<text x="{left - 8}" y="{y + 12}" class="name">{escape(name)}</text>',
                f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="{bar}" class="{kind}"/>',
                f'<path d="M{across(min(found)):.1f} {y + bar / 2}H{across(max(found)):.1f}" class="spread"/>',
                f'<text x="{max(end, across(max(found))) + 6:.1f}" y="{y + 12}">{mid:.0f}{" …" if mid > top else ""}</text>',
            ]
            y += bar + gap
        y += 14
    style = ("text{font:13px sans-serif;fill:#222}.case{font-weight:bold}.name{text-anchor:end}.gate{fill:#1f6f54}.floor{fill:#9bb8ad}"
             ".peer{fill:#b9b9b9}.spread{stroke:#222;stroke-width:1.5}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}"><style>{style}</style>'
            f'<rect width="{width}" height="{y}" fill="#fff"/>\n' + "\n".join(lines) + "\n</svg>\n")


def write(part, result):
    """Puts what was measured in its place; what was not stays as it is."""
    page = DOCS / "benchmarks.md"
    rounds = "" if part == "misses" else f"{result['rounds']} rounds of {result['seconds']} s, "
    said = f"{result['date']}, {result['machine']}, {rounds}Portcullis {result['version']}.\n\n"
    mark = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end of {part} -->)", re.S)
    text, count = mark.subn(lambda found: found[1] + said + PARTS[part](result) + found[2], page.read_text())
    assert count == 1, f"docs/benchmarks.md has no place for {part}"
    page.write_text(text)
    if part == "peers":
        (DOCS / "benchmarks.svg").write_text(plot(result["peers"]))
