#!/usr/bin/env bash
# On a machine with a GPU, from an unpacked bundle (there it lies in share/):
#
#   gpu_check.sh [--figures FILE]   every test that wants a GPU, none skipped; the kernels once more
#                                   under compute-sanitizer, where that is found; then
#                                   `engram_bench gpu`, a JSON line a figure, into FILE
#
# Exit 0 when all of it passed, 1 if not, 2 for wrong usage. Takes some minutes and 10 GiB of GPU
# memory. The last line is `gpu_check: ok`.
set -Eeuo pipefail

BIN="$(cd "$(dirname "${BASH_SOURCE[0]}")/../bin" && pwd)"
FIGURES=""
PROBLEMS=0

while [[ $# -gt 0 ]]; do
  case "$1" in
    --figures)
      [[ $# -ge 2 ]] || { echo "gpu_check: --figures needs a FILE" >&2; exit 2; }
      FIGURES="$2"
      shift 2
      ;;
    --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "gpu_check: unknown argument: $1 (--figures FILE is known)" >&2; exit 2 ;;
  esac
done

# run SECONDS COMMAND...: it has to pass, and no test of it may be skipped.
run() {
  local seconds="$1" log
  shift
  log="$(mktemp)"
  echo "== $*"
  if ! timeout "$seconds" "$@" >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "gpu_check: FAILED: $*" >&2
    PROBLEMS=$((PROBLEMS + 1))
  elif grep -qE '\[  SKIPPED \]|Running 0 tests' "$log"; then
    # What was missing stands in the line behind each.
    grep -A 2 ': Skipped' "$log" | tail -n 3
    echo "gpu_check: SKIPPED, where there should be a GPU: $*" >&2
    PROBLEMS=$((PROBLEMS + 1))
  else
    tail -n 2 "$log"
  fi
  rm -f "$log"
}

run 60 "$BIN/unit_gpu_cache" '--gtest_filter=DeviceTest.Gpu*'
run 240 "$BIN/unit_gpu_cache" '--gtest_filter=*GatherTest*/cuda'
run 240 "$BIN/unit_gpu_cache" '--gtest_filter=GpuTest.*'
run 240 env "ENGRAM_BIN_DIR=$BIN" "$BIN/integration" '--gtest_filter=*HbmTest*/cuda'
SANITIZER="$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)"
if [[ -x "$SANITIZER" ]]; then
  # Without the test that makes the device fault on purpose.
  run 400 "$SANITIZER" --error-exitcode 9 "$BIN/unit_gpu_cache" \
    '--gtest_filter=GpuTest.AGraph*'
  run 400 "$SANITIZER" --error-exitcode 9 "$BIN/unit_gpu_cache" \
    '--gtest_filter=*GatherTest*/cuda:-*LargeBatches*'
else
  echo "== compute-sanitizer is not found: the kernels were not looked at by it"
fi
if [[ $PROBLEMS -eq 0 ]]; then
  echo "== engram_bench gpu"
  timeout 600 "$BIN/engram_bench" gpu --json --dir "${TMPDIR:-/tmp}" | tee ${FIGURES:+"$FIGURES"} ||
    PROBLEMS=1
fi
[[ $PROBLEMS -eq 0 ]] || exit 1
echo "gpu_check: ok"
