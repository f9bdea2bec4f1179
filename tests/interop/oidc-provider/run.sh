#!/usr/bin/env bash
# Portcullis against a second real issuer: the npm package oidc-provider.
#
#   bash tests/interop/oidc-provider/run.sh PATH_TO_PORTCULLIS_BINARY [PART...]
#
# The parts are rfc9068, rotation, dpop and introspection; without any, all of them run.
set -euo pipefail

if [ "$#" -lt 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY [PART...]" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
home="$root/target/interop/oidc-provider"
stamp="$home/package-lock.installed"

# The stamp is written last, so an install that was cut short is done again from the start.
if ! cmp -s "$here/package-lock.json" "$stamp"; then
  rm -rf "$home"
  mkdir -p "$home"
  cp "$here/package.json" "$here/package-lock.json" "$home"
  npm ci --prefix "$home" --ignore-scripts --no-audit --no-fund --loglevel=error
  cp "$here/package-lock.json" "$stamp"
fi

# Modules find packages only in folders above their own, so they run as copies below `node_modules`.
rm -rf "$home/flow"
mkdir "$home/flow"
cp -R "$here"/*.js "$here/parts" "$home/flow"

exec "$(bash "$root/.ci/node")" "$home/flow/flow.js" "$root/policies" "$@"
