#!/usr/bin/env bash
# Portcullis under load while it is started anew: another version on the same sockets, and one gate after the other behind a load
# balancer. Any request that fails fails the run.
#
#   bash tests/interop/rolling/run.sh PATH_TO_PORTCULLIS_BINARY
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/rolling.py" "$1"
