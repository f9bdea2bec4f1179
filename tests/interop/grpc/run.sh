#!/usr/bin/env bash
# gRPC's own client and server (grpcio) on both sides of Portcullis: calls of every kind, deadlines, cancellation, and refusals.
#
#   bash tests/interop/grpc/run.sh PATH_TO_PORTCULLIS_BINARY
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../venv.sh"
make_venv

exec "$python" "$here/calls.py" "$1"
