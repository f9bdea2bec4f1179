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
root="$(cd "$here/../../.." && pwd)"
modules="$root/target/interop/jwt-oracle"
stamp="$modules/package-lock.installed"

# The stamp is written last, so an install that was cut short is done again from the start.
if ! cmp -s "$here/package-lock.json" "$stamp"; then
  rm -rf "$modules"
  mkdir -p "$modules"
  cp "$here/package.json" "$here/package-lock.json" "$modules"
  (cd "$modules" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  cp "$here/package-lock.json" "$stamp"
fi

exec "$(bash "$root/.ci/node")" "$here/main.mjs" "$1"
