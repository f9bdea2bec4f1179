#!/usr/bin/env bash
# The Helm chart, rendered by Go's templates with what Helm adds to them, and the other manifests: Kubernetes' schemas say whether a cluster would
# take them, and the gate whether it would run on what they mount. Needs Go and some of its libraries, in Debian's packages.
#
#   bash tests/interop/helm/run.sh PATH_TO_PORTCULLIS_BINARY
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../venv.sh"
make_venv

render="$here/../../../target/interop/render"
GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS='' go build -o "$render" "$here/render.go"
exec "$python" "$here/main.py" "$1" "$render"
