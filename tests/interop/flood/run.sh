#!/usr/bin/env bash
# Portcullis is flooded with tokens that are no good, each another one, while somebody else asks it what he may: nginx behind it, wrk in
# front of it. Good requests must all be let through, and soon; the issuer must not be asked for its keys because of the flood; and the
# gate's memory must not grow with it. How long good requests took is printed.
#
#   bash tests/interop/flood/run.sh PATH_TO_PORTCULLIS_BINARY
#
# SECONDS_EACH is how long each flood lasts (default 2).
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/flood.py" "$1"
