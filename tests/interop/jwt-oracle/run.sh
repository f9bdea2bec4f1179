#!/usr/bin/env bash
# Portcullis's token verifier against another one: every variant of a token is given to both.
#
#   bash tests/interop/jwt-oracle/run.sh PATH_TO_PORTCULLIS_BINARY
#
# Takes npm.
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ci="$here/../../../.ci"
bash "$ci/npm" "$here" >/dev/null
exec "$(bash "$ci/node")" "$here/main.mjs" "$1"
