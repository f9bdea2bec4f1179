#!/usr/bin/env bash
# What operators load into Prometheus and Grafana, judged by Prometheus' own promtool (Debian's package `prometheus`): the alert rules and their
# tests, every expression of the dashboard, and the metrics of a gate at work.
#
#   bash tests/interop/prometheus/run.sh PATH_TO_PORTCULLIS_BINARY
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "usage: run.sh PATH_TO_PORTCULLIS_BINARY" >&2
  exit 2
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/judge.py" "$1"
