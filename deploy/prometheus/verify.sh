#!/bin/sh
# Runs the alerts' unit tests. Exits 77 (skipped) where there is no promtool.
set -eu
if ! command -v promtool >/dev/null; then
  echo "skipped: no promtool here"
  exit 77
fi
cd "$(dirname "$0")"
promtool check rules alerts.yml
promtool test rules alerts_test.yml
