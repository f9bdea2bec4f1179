"""Draws what `perf script -F comm,ip,sym` says on standard input as a flame graph, in SVG: as wide as it takes time, callers below.

    perf record -F 400 --call-graph dwarf,32768 -p PID; perf script -F comm,ip,sym | python3 flame.py > flame.svg
"""

import re
import sys
from html import escape

WIDTH, ROW, TEXT = 1200, 17, 6.2
# Narrower ones are left out, in pixels.
LEAST = 2.4
# Frames that every stack has and that say nothing.
SILENT = re.compile(r"^(\[unknown\]|_?start|clone|start_thread|std::|core::ops::function|tokio::runtime|<?tokio_util::task|"
                    r"<core::future::poll_fn|<core::panic|entry_SYSCALL|do_syscall_64|__x64_sys_|asm_)")


def short(name):
    """Of a path in Rust, the last two words, without what stands in angle brackets; a closure is the function that it is in."""
    name = name.replace(" (inlined)", "").replace("::{{closure}}", "")
    name = re.sub(r"^<(.+?) as (.+?)>::", lambda it: f"{it.group(1)}::", name)
    name = re.sub(r"<impl .+? for (.+?)>", r"\1", name)
    while re.search(r"<[^<>]*>", name):
        name = re.sub(r"(::)?<[^<>]*>", "", name)
    words = name.replace("&mut ", "").split("::")
    room = words[0] if words[0] in ("portcullis", "pingora_core", "pingora_proxy", "cedar_policy_core", "tokio", "serde_json", "moka") else ""
    return (room + "  " if room and len(words) > 2 else "") + "::".join(words[-2:])


def stacks(lines):
    """Each stack, from the outermost caller."""
    frames = []
    for line in lines:
        found = re.match(r"\s+[0-9a-f]+ (.+)", line)
        if found:
            frames.append(found.group(1))
        elif frames:
            yield frames[::-1]
            frames = []
    if frames:
        yield frames[::-1]


def add(tree, stack):
    tree["n"] += 1
    last = None
    for frame in stack:
        name = short(frame)
        if SILENT.match(frame) or name == last:
            continue
        tree = tree["below"].setdefault(name, {"n": 0, "below": {}, "raw": frame})
        tree["n"] += 1
        last = name


def colour(frame):
    for word, hue in (("portcullis", "#e8743b"), ("cedar", "#b45fc4"), ("pingora", "#4f8fd0"), ("tokio", "#7fb3d5"), ("serde", "#e0b13c"),
                      ("mi_", "#9a9a9a"), ("aws_lc", "#5aa469")):
        if word in frame:
            return hue
    return "#c9c2b8"


def draw(tree, x, depth, scale, out):
    deepest = depth
    for name, node in sorted(tree["below"].items()):
        width = node["n"] * scale
        if width >= LEAST:
            share = 100 * width / WIDTH
            out.append((depth, f'<g><title>{escape(node["raw"])}: {share:.1f} %</title><rect x="{x:.1f}" y="@" width="{width:.1f}" '
                        f'height="{ROW - 1}" fill="{colour(node["raw"])}"/>'
                        + (f'<text x="{x + 3:.1f}" y="@T">{escape(name[: int((width - 6) / TEXT)])}</text>' if width > 30 else "") + "</g>"))
            deepest = max(deepest, draw(node, x, depth + 1, scale, out))
        x += width
    return deepest


def main():
    tree = {"n": 0, "below": {}, "raw": ""}
    for stack in stacks(sys.stdin):
        add(tree, stack)
    out = []
    deepest = draw(tree, 0, 0, WIDTH / tree["n"], out)
    height = (deepest + 1) * ROW
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="10">')
    print(f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>')
    for depth, text in out:
        y = height - (depth + 1) * ROW
        print(text.replace('y="@T"', f'y="{y + 12}"').replace('y="@"', f'y="{y}"'))
    print("</svg>")


main()
