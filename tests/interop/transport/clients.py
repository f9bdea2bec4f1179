"""Python's clients: httpx in both versions of HTTP, and websockets."""

import asyncio
import contextlib
import os
import ssl
import subprocess
from pathlib import Path

import httpx
import websockets


async def ask(house):
    context = ssl.create_default_context(cafile=house.folder / "ca.pem")
    context.load_cert_chain(house.folder / "client.pem", house.folder / "client.key")
    for http1, http2, url in [
        (True, False, house.url), (False, True, house.url), (True, False, house.tls_url), (True, True, house.tls_url),
    ]:
        over = {"http1": http1, "http2": http2, "verify": context, "trust_env": False, "timeout": 20}
        async with httpx.AsyncClient(**over, headers=house.headers) as client:
            users = ("user-1", "user-2") * 10
            answers = await asyncio.gather(*(client.get(url("told", user)) for user in users))
            assert [answer.status_code for answer in answers] == [200, 403] * 10
            assert {answer.http_version for answer in answers} == {"HTTP/2" if http2 else "HTTP/1.1"}
            await stream(client, house, url)


async def stream(client, house, url):
    """Events and parts of bodies are there as they are sent: each next one waits for the one before it."""
    async with client.stream("GET", url("events")) as answer:
        parts = answer.aiter_text()
        assert await anext(parts) == "data: first\n\n"
        async with httpx.AsyncClient(trust_env=False) as other:
            await other.get(house.release)
        assert await anext(parts) == "data: second\n\n"
    # httpx sends a body whole before it reads; that a body goes on once the answer has begun, Node's fetch shows.
    pieces = [bytes([piece]) * 70_000 for piece in range(20)]

    async def body():
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)

    answer = await client.post(url("sink"), content=body())
    assert answer.text == str(20 * 70_000), answer.text


async def sockets(house):
    """An echo through the gate: texts, a large frame, a message in parts, pings, close codes, and a silence."""

    async def echo(socket):
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            async for message in socket:
                if message == "leave":
                    return await socket.close(4321, "as you wish")
                await socket.send(message)

    url = house.url("socket").replace("http:", "ws:")
    over = {"additional_headers": house.headers, "max_size": None, "proxy": None}
    async with websockets.serve(echo, "127.0.0.1", house.sockets, max_size=None):
        async with websockets.connect(url, **over) as socket:
            for message in ("text", b"\x00\xff" * 4_000_000):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(part for part in ("one ", "two ", "three"))
            assert await socket.recv() == "one two three"
            await asyncio.wait_for(await socket.ping(b"here"), 5)
            await asyncio.sleep(2)
            await socket.send("after a silence")
            assert await socket.recv() == "after a silence"
            await socket.send("leave")
            await asyncio.wait_for(socket.wait_closed(), 5)
            assert (socket.close_code, socket.close_reason) == (4321, "as you wish")
        async with websockets.connect(url, **over) as socket:
            await socket.close(3000, "enough")
            assert socket.close_code == 3000
        for headers, status in (({}, 401), ({"authorization": "Bearer x"}, 401)):
            try:
                async with websockets.connect(url, **{**over, "additional_headers": headers}):
                    raise AssertionError("a socket for nobody")
            except websockets.exceptions.InvalidStatus as refused:
                assert refused.response.status_code == status, refused


def run(house):
    asyncio.run(ask(house))
    asyncio.run(sockets(house))
    fetch = [os.environ["NODE"], str(Path(__file__).parent / "fetch.mjs")]
    url = f"http://127.0.0.1:{house.clear.port}"
    subprocess.run([*fetch, url, house.token, house.release], check=True, timeout=60)
