#!/usr/bin/env bash
# Portcullis against a real issuer: Amazon Cognito as MiniStack emulates it.
#
#   bash tests/interop/cognito/run.sh PATH_TO_PORTCULLIS_BINARY
#   bash tests/interop/cognito/run.sh --issuer-only     # the issuer's half, no gate
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY | --issuer-only" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../venv.sh"
make_venv

exec "$python" "$here/flow.py" "$1"
