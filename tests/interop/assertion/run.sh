#!/usr/bin/env bash
# Services that verify the gate's assertions by the snippets of docs/upstream-identity.md: in Node.js (jose), Python (PyJWT), Go and
# Java (Jackson). They take what the gate has allowed, and nothing else.
#
#   bash tests/interop/assertion/run.sh PATH_TO_PORTCULLIS_BINARY
#
# Takes npm, Python 3.10 or newer, Go 1.19 and Java 17 with Debian's Jackson.
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../venv.sh"
make_venv
ci="$here/../../../.ci"
home="$(bash "$ci/npm" "$here")"
exec "$python" "$here/main.py" "$1" "$(bash "$ci/node")" "$home"
