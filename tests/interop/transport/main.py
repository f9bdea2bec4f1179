"""Real clients and upstreams around the gate; see run.sh."""

import sys
import tempfile
import time
from pathlib import Path

import clients
import curl
import nghttp
from house import House

CLIENTS = {"curl": curl, "nghttp and h2load": nghttp, "httpx, websockets and fetch": clients}


def main():
    with tempfile.TemporaryDirectory() as name:
        house = House(sys.argv[1], Path(name))
        try:
            for named, client in CLIENTS.items():
                began = time.monotonic()
                client.run(house)
                print(f"transport: {named}: good ({time.monotonic() - began:.1f} s)")
        finally:
            house.end()


main()
