#!/usr/bin/env bash
# Portcullis between clients and upstreams that nobody here wrote: curl, nghttp, h2load, httpx, websockets, Node's fetch; nginx, Node.
#
#   bash tests/interop/transport/run.sh PATH_TO_PORTCULLIS_BINARY
#
# PYTHON names the interpreter the venv is made with (3.10 or newer; default python3).
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
venv="$root/target/interop/transport-venv"
stamp="$venv/requirements.installed"

# The stamp is written last, so an install that was cut short is done again from the start.
if ! cmp -s "$here/requirements.txt" "$stamp" || ! "$venv/bin/python" -c '' 2>/dev/null; then
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$stamp"
fi

NODE="$(bash "$root/.ci/node")" exec "$venv/bin/python" "$here/main.py" "$1"
