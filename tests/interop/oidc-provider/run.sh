#!/usr/bin/env bash
# Portcullis against a second real issuer: the npm package oidc-provider.
#
#   bash tests/interop/oidc-provider/run.sh PATH_TO_PORTCULLIS_BINARY [PART...]
#
# The parts are rfc9068, rotation, dpop, introspection and metadata; without any, all of them run. Takes npm.
set -euo pipefail

if [ "$#" -lt 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY [PART...]" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
home="$(bash "$root/.ci/npm" "$here")"

# Modules find packages only in folders above their own, so they run as copies below `node_modules`.
rm -rf "$home/flow"
mkdir "$home/flow"
cp -R "$here"/*.js "$here/parts" "$home/flow"

exec "$(bash "$root/.ci/node")" "$home/flow/flow.js" "$root/policies" "$@"
