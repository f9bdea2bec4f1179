#!/usr/bin/env bash
# OpenTelemetry's own messages, received by grpcio and by HTTP: traces from client to upstream, denials, sampling, TLS, and a receiver
# that goes away.
#
#   bash tests/interop/otlp/run.sh PATH_TO_PORTCULLIS_BINARY
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../venv.sh"
make_venv

exec "$python" "$here/receive.py" "$1"
