"""Real clients and upstreams around the gate; see run.sh."""

import resource
import sys
import tempfile
import time
from pathlib import Path

import clients
import curl
import flood
import nghttp
import weight
from house import House

CLIENTS = {"curl": curl, "nghttp and h2load": nghttp, "httpx, websockets and fetch": clients, "floods": flood, "weight": weight}


def main():
    # As many descriptors as there may be, for the gate too, which inherits it.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
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
