#!/usr/bin/env bash
# Portcullis reloads 10,000 policies under load: nginx behind it, wrk in front of it. Any request that fails fails the run;
# how long reloads take, and what they do to latency, is printed.
#
#   bash tests/interop/reload/run.sh PATH_TO_PORTCULLIS_BINARY
#
# SECONDS_EACH is how long each round of load lasts (default 4), POLICIES how many policies there are (default 10000).
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/load.py" "$1"
