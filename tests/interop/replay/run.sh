#!/usr/bin/env bash
# A gate at work writes decision records with questions, and `portcullis replay` decides them again: by the policies in force
# nothing changes, by a candidate what must change does, and the candidate says the same as a shadow beside the gate. 100,000
# records are to take less than 10 s, with a progress bar on a terminal.
#
#   bash tests/interop/replay/run.sh PATH_TO_PORTCULLIS_BINARY
#
# RECORDS is how many records there are to be (default 100000).
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/replay.py" "$1"
