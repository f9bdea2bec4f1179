#!/usr/bin/env bash
# Portcullis between clients and upstreams that nobody here wrote: curl, nghttp, h2load, httpx, websockets, Node's fetch; nginx, Node. And those that mean no good: floods, and what is large, many and slow.
#
#   bash tests/interop/transport/run.sh PATH_TO_PORTCULLIS_BINARY
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../venv.sh"
make_venv

NODE="$(bash "$here/../../../.ci/node")" exec "$python" "$here/main.py" "$1"
