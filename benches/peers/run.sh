#!/usr/bin/env bash
# What a request costs Portcullis and those that would stand in its place, side by side: Envoy, HAProxy, nginx with njs, and an Express proxy.
# Every one is first shown to decide the same. Each then runs alone, on one core, while load and service share another; rounds take
# turns, so that what disturbs the machine disturbs all. Prints a table of processor time in µs for a request (median, least and most of
# the rounds).
#
#   bash benches/peers/run.sh PATH_TO_PORTCULLIS_BINARY [OPTION...]
#
# Options: --rounds N, --seconds N, --tokens N, --peers a,b, --cases a,b, --out FILE (bench.py --help). Needs two cores, and the programs
# that `make bench` installs. Everything is on loopback.
set -euo pipefail

if [ "$#" -lt 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY [OPTION...]" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
source "$root/tests/interop/venv.sh"
make_venv
exec "$python" "$here/bench.py" "$@" --express "$(bash "$root/.ci/npm" "$here/express")" --node "$(bash "$root/.ci/node")"
