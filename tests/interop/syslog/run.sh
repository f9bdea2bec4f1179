#!/usr/bin/env bash
# Records go to a real rsyslogd, on a Unix socket, by UDP and by TCP: every one arrives as it was made, a restart of rsyslogd loses
# those alone that are counted, and none is cut.
#
#   bash tests/interop/syslog/run.sh PATH_TO_PORTCULLIS_BINARY
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi
if ! command -v rsyslogd /usr/sbin/rsyslogd > /dev/null; then
  echo "rsyslogd is needed: apt-get install rsyslog" >&2
  exit 2
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/collect.py" "$1"
