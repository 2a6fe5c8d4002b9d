#!/usr/bin/env bash
# One whole trip: a small checkpoint is written, engramd started, the checkpoint loaded, rows
# fetched by a client in another process, every byte of them checked, and the daemon stopped.
#
#   end_to_end.sh --bin-dir DIR --work DIR [--base-size N] [--seed N] [--dram SIZE] [--flip] [--keep]
#
# --bin-dir    where engramd, engramctl and engram_quickstart_client are
# --work       everything is made below this directory, and removed again
# --base-size  engram_vocab_size of the checkpoint (16000: 206 MB)
# --flip       flips one bit of the checkpoint after it was loaded: the check must then fail
# --keep       leaves the daemon and its data; a daemon kept by an earlier run is replaced
#
# Uses what is installed and built already. Exit 0 only if every byte was right.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LIB="$ENGRAM_ROOT/deploy/lib"
TABLE=quickstart
READY_SECONDS=60
STOP_SECONDS=30

BIN="" WORK="" BASE_SIZE=16000 SEED=1 DRAM=128MiB FLIP=0 KEEP=0
RUN="" SOCKET_DIR="" SHM_DIR="" DAEMON="" KEPT=0

usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

parse_arguments() {
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --bin-dir | --work | --base-size | --seed | --dram)
        [[ $# -ge 2 ]] || { usage >&2; echo "$1 needs a value" >&2; exit 2; }
        case "$1" in
          --bin-dir) BIN="$(cd "$2" && pwd)" ;;
          --work) mkdir -p "$2" && WORK="$(cd "$2" && pwd)" ;;
          --base-size) BASE_SIZE="$2" ;;
          --seed) SEED="$2" ;;
          --dram) DRAM="$2" ;;
        esac
        shift 2 ;;
      --flip) FLIP=1; shift ;;
      --keep) KEEP=1; shift ;;
      --help) usage; exit 0 ;;
      *) usage >&2; echo "unknown argument: $1" >&2; exit 2 ;;
    esac
  done
  [[ -n "$BIN" && -n "$WORK" ]] || { usage >&2; exit 2; }
  local program
  for program in engramd engramctl engram_quickstart_client; do
    [[ -x "$BIN/$program" ]] || die "$BIN/$program is not there: build it first"
  done
}

# ------------------------------------------------------------------------------------ the daemon

# is_our_daemon PID RUN_DIR: whether PID is an engramd that serves RUN_DIR, and no process that got
# the same number later.
is_our_daemon() {
  [[ -r "/proc/$1/cmdline" ]] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline" | grep -qxF "$2/data"
}

# Whether a process is gone, or is a zombie that nobody has reaped yet.
is_gone() {
  [[ ! -r "/proc/$1/stat" ]] || [[ "$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null)" == Z ]]
}

# terminate PID: SIGTERM, a bounded wait, then SIGKILL. Returns 1 if it had to be killed.
terminate() {
  local pid="$1" deadline=$((SECONDS + STOP_SECONDS))
  kill -TERM "$pid" 2>/dev/null || true
  until is_gone "$pid"; do
    if [[ $SECONDS -ge $deadline ]]; then
      kill -KILL "$pid" 2>/dev/null || true
      return 1
    fi
    sleep 0.05
  done
}

# Stops what an earlier run kept, or left because it was killed itself. The lock is held, so no
# other run is at work in $WORK.
clear_earlier_runs() {
  local run pid
  for run in "$WORK"/run.*; do
    [[ -d "$run" ]] || continue
    pid="$(cat "$run/engramd.pid" 2>/dev/null || true)"
    if [[ -n "$pid" ]] && is_our_daemon "$pid" "$run"; then
      echo "stopping the daemon of an earlier run (pid $pid)"
      terminate "$pid" || echo "pid $pid did not stop within $STOP_SECONDS s and was killed" >&2
    fi
    [[ ! -f "$run/socket_dir" ]] || rm -rf "$(cat "$run/socket_dir")"
    [[ ! -f "$run/shm_dir" ]] || rm -rf "$(cat "$run/shm_dir")"
    rm -rf "$run"
  done
}

free_port() {
  python3 -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])'
}

show_logs() {
  [[ -f "$RUN/engramd.log" ]] || return 0
  printf '\n-- the last lines of the log of engramd\n' >&2
  tail -n 40 "$RUN/engramd.log" >&2
}

start_daemon() {
  # A Unix socket's path is limited to 107 bytes; a repository may lie deeper than that.
  SOCKET="$RUN/engramd.sock"
  if [[ ${#SOCKET} -gt 96 ]]; then
    SOCKET_DIR="$(mktemp -d /tmp/engram.XXXXXX)"
    echo "$SOCKET_DIR" >"$RUN/socket_dir"
    SOCKET="$SOCKET_DIR/engramd.sock"
  fi
  HTTP="127.0.0.1:$(free_port)"
  mkdir "$RUN/data"
  SHM_DIR="$(mktemp -d /dev/shm/engram.XXXXXX)"
  echo "$SHM_DIR" >"$RUN/shm_dir"
  : >"$RUN/engramd.out"  # the loop below may read it before the daemon's shell has made it
  # In a session of its own, so that Ctrl-C reaches this script first; without the lock's
  # descriptor, so that a kept daemon does not hold the lock.
  setsid "$BIN/engramd" --data-dir "$RUN/data" --listen "unix:$SOCKET" --http "$HTTP" \
    --dram "$DRAM" --hbm 0 --shm-dir "$SHM_DIR" </dev/null >"$RUN/engramd.out" 2>"$RUN/engramd.log" 9>&- &
  DAEMON=$!
  echo "$DAEMON" >"$RUN/engramd.pid"
  local deadline=$((SECONDS + READY_SECONDS))
  until grep -qx 'engramd: ready' "$RUN/engramd.out"; do
    ! is_gone "$DAEMON" || die "engramd ended before it was ready"
    [[ $SECONDS -lt $deadline ]] || die "engramd was not ready within $READY_SECONDS s"
    sleep 0.05
  done
  echo "engramd: ready (pid $DAEMON, unix:$SOCKET, http://$HTTP)"
}

stop_daemon() {
  local pid="$DAEMON" code=0
  terminate "$pid" || { DAEMON=""; die "engramd did not stop within $STOP_SECONDS s of SIGTERM"; }
  wait "$pid" || code=$?
  DAEMON=""
  [[ $code -eq 0 ]] || die "engramd ended with exit code $code on SIGTERM, not 0"
  echo "engramd stopped with exit code 0"
}

finish() {
  local code=$?
  trap - EXIT ERR INT TERM
  [[ $KEPT -eq 0 ]] || exit "$code"
  if [[ -n "$RUN" ]]; then
    [[ $code -eq 0 ]] || show_logs
    [[ -z "$DAEMON" ]] || terminate "$DAEMON" || true
    rm -rf "$RUN"
  fi
  [[ -z "$SOCKET_DIR" ]] || rm -rf "$SOCKET_DIR"
  [[ -z "$SHM_DIR" ]] || rm -rf "$SHM_DIR"
  exit "$code"
}

# -------------------------------------------------------------------------------------- the trip

ctl() { "$BIN/engramctl" --server "unix:$SOCKET" "$@"; }

# The daemon's own count of rows served must be what the client was told, answer by answer.
check_stats() {
  ctl stats --json >"$RUN/stats.json"
  python3 - "$RUN/stats.json" "$RUN/totals.json" "$TABLE" <<'PYTHON'
import json, sys
stats, totals = (json.load(open(path)) for path in sys.argv[1:3])
(table,) = (table for table in stats["tables"] if table["name"] == sys.argv[3])
counted = {tier: table["tiers"][tier]["hits"] for tier in ("hbm", "dram", "nvme")}
if counted != totals["served"]:
    sys.exit(f"stats counts {counted} rows served; the client was told {totals['served']}")
PYTHON
}

print_kept() {
  cat <<TEXT

engramd is left running:
  gRPC     unix:$SOCKET
  HTTP     http://$HTTP/   (status page; /metrics, /healthz, /readyz)
  pid      $DAEMON
  data     $RUN   (the checkpoint is in checkpoint/)
Try it:    $BIN/engramctl --server unix:$SOCKET list
Stop it:   kill $DAEMON   (the next run stops it, too, and removes its data)
TEXT
}

main() {
  parse_arguments "$@"
  exec 9>"$WORK/lock"
  flock -n 9 || die "another run is at work in $WORK"
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  clear_earlier_runs
  RUN="$(mktemp -d "$WORK/run.XXXXXX")"

  step "write a checkpoint (DeepSeek-V4.1 layout, base size $BASE_SIZE, seed $SEED)"
  python3 "$LIB/make_checkpoint.py" --out "$RUN/checkpoint" --base-size "$BASE_SIZE" \
    --seed "$SEED" >"$RUN/expect.json"
  cat "$RUN/expect.json"

  step "start engramd (DRAM $DRAM)"
  start_daemon

  step "load the checkpoint"
  ctl load "$TABLE" --checkpoint "$RUN/checkpoint"

  step "prefetch and look up from another process"
  "$BIN/engram_quickstart_client" --server "unix:$SOCKET" --table "$TABLE" \
    --expect "$RUN/expect.json" --dump "$RUN/rows" --seed "$SEED" >"$RUN/totals.json"
  cat "$RUN/totals.json"

  if [[ $FLIP -eq 1 ]]; then
    step "flip one bit of the checkpoint"
    python3 "$LIB/flip_byte.py" "$RUN/checkpoint" --seed "$SEED"
  fi

  step "compare every row with the checkpoint"
  python3 "$LIB/check_rows.py" --checkpoint "$RUN/checkpoint" --dump "$RUN/rows"
  rm "$RUN/rows"

  step "which tier served what"
  check_stats
  ctl stats

  if [[ $KEEP -eq 1 ]]; then
    KEPT=1
    end_step
    print_kept
    return
  fi
  step "stop engramd"
  stop_daemon
  end_step
}

main "$@"
