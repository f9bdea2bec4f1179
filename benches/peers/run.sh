#!/usr/bin/env bash
# What a request costs Portcullis and those that would stand in its place: Envoy, HAProxy, nginx with njs, and an Express proxy; what it costs
# when there is more and more of something; and what becomes of good requests while somebody floods the gate with others.
#
#   bash benches/peers/run.sh PATH_TO_PORTCULLIS_BINARY PATH_TO_FLOOR_BINARY [OPTION...]
#
# Peers are first shown to decide the same. What is compared runs on one core, and is asked in turns, one at a time, while load and
# service share another core, so that what disturbs the machine disturbs all; the more rounds the better. Options: --rounds N, --seconds N,
# --tokens N, --parts a,b, --peers a,b, --cases a,b, --growth a,b, --agentgateway BINARY, --out FILE, --docs (bench.py --help). Needs two
# cores, and the programs that `make bench` installs. Everything is on loopback.
set -euo pipefail

if [ "$#" -lt 2 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY PATH_TO_FLOOR_BINARY [OPTION...]" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
source "$root/tests/interop/venv.sh"
make_venv
exec "$python" "$here/bench.py" "$1" --floor "$2" "${@:3}" --express "$(bash "$root/.ci/npm" "$here/express")" --node "$(bash "$root/.ci/node")"
