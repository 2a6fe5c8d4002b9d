# shellcheck shell=bash
# shellcheck disable=SC2034  # the lists are for those who source this
#
# What the programs of deploy/ share. Sourced, never run.
#
# Debian 12 and Ubuntu 24.04, as root or with sudo. Whatever is already there is left alone, so a
# second run needs neither network nor root.

set -Eeuo pipefail
export LC_ALL=C.UTF-8

ENGRAM_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PROGRAM="$(realpath --relative-to="$ENGRAM_ROOT" "$0")"

# To build everything and run the tests. Development packages name what they need themselves.
ENGRAM_PACKAGES=(
  build-essential cmake ninja-build ccache pkg-config git ca-certificates python3
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  librocksdb-dev liburing-dev libabsl-dev libxxhash-dev libssl-dev libicu-dev zlib1g-dev
  prometheus-cpp-dev libcpp-httplib-dev libyaml-cpp-dev libcli11-dev nlohmann-json3-dev
  libsystemd-dev libgtest-dev libgmock-dev libbenchmark-dev
)
# To pack what is built; a test does.
ENGRAM_BUNDLE_PACKAGES=(patchelf)
ENGRAM_TEST_PACKAGES=(python3-venv "${ENGRAM_BUNDLE_PACKAGES[@]}")
# For the fuzz preset, the thread-safety analysis and the format check.
ENGRAM_CLANG_PACKAGES=(clang libclang-rt-dev clang-format)

# ---------------------------------------------------------------------------------------- output

# Whatever ends a program by `set -e` is named; a subshell leaves that to its parent.
report_error() {
  [[ "$BASHPID" != "$$" ]] ||
    printf '%s: failed%s: %s\n' "$PROGRAM" "${STEP_NAME:+ in step \"$STEP_NAME\"}" \
      "${1%%$'\n'*}" >&2
}
trap 'report_error "$BASH_COMMAND"' ERR

STEP_NAME=""
STEP_START=0
TIMINGS=()

# step NAME: ends the step before and begins one.
step() {
  end_step
  STEP_NAME="$1"
  STEP_START="$SECONDS"
  printf '\n== %s\n' "$1"
}

end_step() {
  [[ -n "$STEP_NAME" ]] || return 0
  local took=$((SECONDS - STEP_START))
  printf -- '-- %s: %d s\n' "$STEP_NAME" "$took"
  TIMINGS+=("$(printf '%6d s  %s' "$took" "$STEP_NAME")")
  STEP_NAME=""
}

print_timings() {
  end_step
  printf '\n== timings\n'
  printf '%s\n' "${TIMINGS[@]}"
}

die() {
  printf '%s: %s\n' "$PROGRAM" "$*" >&2
  exit 1
}

# -------------------------------------------------------------------------------------- packages

as_root() {
  if [[ "$(id -u)" -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "installing packages needs root: run as root or install sudo"
  fi
}

# Prints those of the packages named that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    # A name may be provided by another package of the distribution; what counts is the file
    # status of the package itself, which every name in our lists has.
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] ||
      printf '%s\n' "$package"
  done
}

# install_packages NAME...: installs what is missing, and only then touches the network.
install_packages() {
  command -v dpkg-query >/dev/null ||
    die "this needs Debian 12 or Ubuntu 24.04 (no dpkg here); install by hand: $*"
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if [[ ${#missing[@]} -eq 0 ]]; then
    echo "all $# packages are installed"
  else
    echo "installing: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      "${missing[@]}"
  fi
  local have
  have="$(cmake --version | sed -n 's/^cmake version \([0-9.]*\).*/\1/p')"
  dpkg --compare-versions "$have" ge 3.25 ||
    die "cmake $have at $(command -v cmake) is too old: 3.25 is needed"
}

# ---------------------------------------------------------------------------------------- python

# make_venv REQUIREMENTS: a virtual environment in build/venv with these packages and what pip adds
# for them; made anew only when the file changes.
make_venv() {
  local requirements="$1" venv="$ENGRAM_ROOT/build/venv" python=/usr/bin/python3
  [[ -x "$python" ]] || python="$(command -v python3)"
  if cmp -s "$requirements" "$venv/installed.txt" && "$venv/bin/python" -c '' 2>/dev/null; then
    echo "$venv is up to date"
    return
  fi
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$venv/installed.txt"
}

# ----------------------------------------------------------------------------------------- build

# build_preset PRESET [TARGET...]: configures and builds with two jobs at most.
build_preset() {
  local preset="$1" jobs
  shift
  jobs="$(nproc)"
  [[ "$jobs" -le 2 ]] || jobs=2
  # CMakePresets.json has ccache hash paths below the repository as relative ones and leave the
  # locale out, so that what one clone or shell has compiled serves all others.
  export CCACHE_MAXSIZE="${CCACHE_MAXSIZE:-5G}"
  if [[ -z "${CCACHE_DIR:-}" && -z "${HOME:-}" ]]; then
    export CCACHE_DIR="$ENGRAM_ROOT/build/ccache"
  fi
  local targets=()
  [[ $# -eq 0 ]] || targets=(--target "$@")
  (
    cd "$ENGRAM_ROOT"
    cmake --preset "$preset"
    cmake --build --preset "$preset" --parallel "$jobs" "${targets[@]}"
  )
}

# ---------------------------------------------------------------------------------------- bundle

# is_of_glibc NAME: whether a library belongs to glibc. It comes with every Linux that has one, fits
# only its own loader, and so never goes into an archive.
is_of_glibc() {
  case "$1" in
    ld-linux*.so.* | libc.so.* | libm.so.* | libmvec.so.* | libpthread.so.* | libdl.so.*) ;;
    librt.so.* | libresolv.so.* | libutil.so.* | libanl.so.* | libnss_*.so.*) ;;
    libBrokenLocale.so.* | libthread_db.so.*) ;;
    *) return 1 ;;
  esac
}

# is_of_driver NAME: whether a library comes with NVIDIA's driver and fits only that.
is_of_driver() {
  case "$1" in
    libcuda.so* | libnvidia*) ;;
    *) return 1 ;;
  esac
}
