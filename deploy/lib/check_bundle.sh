#!/usr/bin/env bash
# Checks an archive of deploy/bundle: its size, that each program and library asks for nothing but
# the archive's own libraries and glibc's of at most 2.36, and that the programs start where there
# is nothing else.
#
#   check_bundle.sh [--max-mib N] [--keep-root DIR] ARCHIVE
#
# --max-mib    the largest archive that is taken (60)
# --keep-root  the root directory that the programs are started in is made there, and stays
#
# Run by root, the programs are started in a chroot; otherwise in one of a user namespace, or, where
# neither is allowed, with an empty environment only. `isolation: ...` says which. Exit 0 if all is
# well.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The newest version of glibc that the archive may ask for: Debian 12's.
GLIBC_MINOR=36
CALL_SECONDS=120

MAX_MIB=60 ROOT="" ARCHIVE=""
WORK="" TOP="" ISOLATION="" LOADER=""
ENTER=()  # the command that changes the root
PROBLEMS=()

usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

parse_arguments() {
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --max-mib | --keep-root)
        [[ $# -ge 2 && -n "$2" ]] || { usage >&2; echo "$1 needs a value" >&2; exit 2; }
        case "$1" in
          --max-mib) MAX_MIB="$2" ;;
          --keep-root) ROOT="$(realpath -m "$2")" ;;
        esac
        shift 2 ;;
      --help) usage; exit 0 ;;
      --*) usage >&2; echo "unknown argument: $1" >&2; exit 2 ;;
      *)
        [[ -z "$ARCHIVE" ]] || { usage >&2; echo "one archive only, not also $1" >&2; exit 2; }
        ARCHIVE="$1"
        shift ;;
    esac
  done
  [[ -n "$ARCHIVE" ]] || { usage >&2; exit 2; }
  [[ "$MAX_MIB" =~ ^[1-9][0-9]*$ ]] || { echo "--max-mib: $MAX_MIB is no number" >&2; exit 2; }
  [[ -f "$ARCHIVE" ]] || die "$ARCHIVE is not there"
}

problem() { PROBLEMS+=("$*"); }

# Ends the check if anything was found: what follows would only say it again, less plainly.
stop_at_problems() {
  local said
  [[ ${#PROBLEMS[@]} -gt 0 ]] || return 0
  for said in "${PROBLEMS[@]}"; do
    printf '%s: %s\n' "$ARCHIVE" "$said" >&2
  done
  exit 1
}

check_size() {
  local bytes
  bytes="$(stat -c %s "$ARCHIVE")"
  [[ $bytes -le $((MAX_MIB << 20)) ]] ||
    problem "$bytes bytes are more than $MAX_MIB MiB: leave something out, or raise --max-mib"
  stop_at_problems
}

unpack() {
  local entries
  if [[ -z "$ROOT" ]]; then
    ROOT="$WORK/root"
  else
    [[ ! -e "$ROOT" ]] || die "$ROOT is there already: name a directory that is not"
  fi
  mkdir -p "$ROOT"
  tar --extract --file="$ARCHIVE" --no-same-owner --directory="$ROOT" ||
    die "$ARCHIVE cannot be unpacked"
  mapfile -t entries < <(ls -A "$ROOT")
  [[ ${#entries[@]} -eq 1 && "${entries[0]}" =~ ^engramd-[0-9.]+-x86_64$ ]] ||
    die "$ARCHIVE holds ${entries[*]:-nothing}, and not one folder engramd-VERSION-x86_64"
  TOP="${entries[0]}"
  local needed
  for needed in bin/engramd bin/engramctl bin/engram_bench share/README.txt share/engramd.yaml \
    share/proto/engram/v1/{store,admin}.proto; do
    [[ -f "$ROOT/$TOP/$needed" ]] || problem "$needed is missing"
  done
  compgen -G "$ROOT/$TOP/bin/unit_gpu_cache*" >/dev/null || problem "it holds no GPU test"
  stop_at_problems
}

# ------------------------------------------------------------------------ what the files ask for

# For each file on the command line, the lines `FILE needs LIBRARY`, `FILE rpath PATH`,
# `FILE runpath PATH` and `FILE version NAME`.
list_demands() {
  objdump -p "$@" | awk '
    / +file format / { file = $1; sub(/:$/, "", file); next }
    $1 == "NEEDED" { print file, "needs", $2 }
    $1 == "RPATH" { print file, "rpath", $2 }
    $1 == "RUNPATH" { print file, "runpath", $2 }
    # `0x06969194 0x00 04 GLIBC_2.14`, below "Version References"
    /^ +0x[0-9a-f]+ 0x[0-9a-f]+ [0-9]+ / { print file, "version", $4 }'
}

check_demands() {
  local file kind value rpath files
  declare -A rpaths=()
  mapfile -t files < <(cd "$ROOT/$TOP" && find bin lib -type f | sort)
  (cd "$ROOT/$TOP" && list_demands "${files[@]}") >"$WORK/demands" ||
    die "$ARCHIVE holds a file in bin/ or lib/ that is no program and no library"
  while read -r file kind value; do
    case "$kind" in
      needs)
        [[ -f "$ROOT/$TOP/lib/$value" ]] || is_of_glibc "$value" ||
          problem "$file needs $value, which is neither in lib/ nor of glibc" ;;
      rpath) rpaths["$file"]="$value" ;;
      runpath) problem "$file has the RUNPATH $value, which hides the RPATH of the programs" ;;
      version)
        is_old_enough "$value" ||
          problem "$file needs $value, newer than GLIBC_2.$GLIBC_MINOR: build it on Debian 12" ;;
    esac
  done < <(sort -u "$WORK/demands")
  for file in "${files[@]}"; do
    # shellcheck disable=SC2016  # the loader's word
    [[ "$file" == bin/* ]] && rpath='$ORIGIN/../lib' || rpath='$ORIGIN'
    [[ "${rpaths[$file]:-none}" == "$rpath" ]] ||
      problem "$file has the RPATH ${rpaths[$file]:-none}, not $rpath"
  done
  stop_at_problems
  echo "${#files[@]} programs and libraries ask for nothing else"
}

# is_old_enough VERSION: whether a symbol version is another library's, or one of glibc that is no
# newer than allowed. GLIBC_PRIVATE binds to one build of glibc and is never right.
is_old_enough() {
  case "$1" in
    GLIBC_ABI_DT_RELR) [[ $GLIBC_MINOR -ge 36 ]] ;;
    GLIBC_*)
      [[ "$1" =~ ^GLIBC_2\.([0-9]+)(\.[0-9]+)*$ ]] && [[ ${BASH_REMATCH[1]} -le $GLIBC_MINOR ]] ;;
  esac
}

# --------------------------------------------------------------------------- where there is nothing

# The loader, and glibc's libraries beside the one that a program of ours loads, by the same paths.
copy_glibc() {
  local libc directory library
  libc="$(ldd "$ROOT/$TOP/bin/engramctl" | awk '$1 == "libc.so.6" { print $3 }')"
  LOADER="$(ldd "$ROOT/$TOP/bin/engramctl" | awk '$1 ~ /^\/.*\/ld-linux/ { print $1 }')"
  [[ -f "$libc" && -f "$LOADER" ]] || die "no glibc found on this machine: '$libc', '$LOADER'"
  directory="$(dirname "$libc")"
  mkdir -p "$ROOT$directory" "$ROOT$(dirname "$LOADER")" "$ROOT/tmp"
  cp -L "$LOADER" "$ROOT$LOADER"
  for library in "$directory"/lib*.so.*; do
    if is_of_glibc "${library##*/}"; then cp -L "$library" "$ROOT$directory"; fi
  done
}

# A chroot has no /proc, by which the loader finds out where a program lies: it is told. The
# programs that change the root are named by path, since PATH is gone.
choose_isolation() {
  local chroot unshare
  chroot="$(PATH="$PATH:/usr/sbin:/sbin" command -v chroot || echo /usr/sbin/chroot)"
  unshare="$(command -v unshare || echo /usr/bin/unshare)"
  ENTER=("$chroot" "$ROOT")
  ISOLATION="chroot"
  [[ "$(id -u)" -eq 0 ]] && starts_in_root && return
  ENTER=("$unshare" --map-root-user "$chroot" "$ROOT")
  ISOLATION="unshare"
  starts_in_root && return
  ENTER=()
  ISOLATION="env"
}

starts_in_root() {
  timeout "$CALL_SECONDS" env -i "${ENTER[@]}" "$LOADER" --version >/dev/null 2>&1
}

# isolated PROGRAM [ARGUMENT...]: runs a program of bin/. Every function of every library is looked
# up at the start, so that none can be missing later.
isolated() {
  local program="$1" prefix=""
  shift
  [[ "$ISOLATION" != env ]] || prefix="$ROOT"
  timeout "$CALL_SECONDS" env -i LD_BIND_NOW=1 LD_ORIGIN_PATH="$prefix/$TOP/bin" \
    "${ENTER[@]}" "$prefix/$TOP/bin/$program" "$@" </dev/null
}

# The libraries that the loader opens for a program, by path; `not found` where it finds none.
loaded_libraries() {
  local prefix=""
  [[ "$ISOLATION" != env ]] || prefix="$ROOT"
  timeout "$CALL_SECONDS" env -i "${ENTER[@]}" "$LOADER" --list "$prefix/$TOP/bin/$1" |
    awk '$2 == "=>" { print $1, ($3 == "not" ? "not found" : $3) }'
}

check_loaded() {
  local program="$1" lib="/$TOP/lib" name path
  [[ "$ISOLATION" != env ]] || lib="$ROOT$lib"
  loaded_libraries "$program" >"$WORK/loaded" 2>"$WORK/said" ||
    problem "the libraries of $program cannot be loaded: $(tail -n 3 "$WORK/said")"
  while read -r name path; do
    # The loader writes ORIGIN/../lib as it stands.
    [[ "$(realpath -ms "$path")" == "$lib/$name" ]] || is_of_glibc "$name" ||
      problem "$program finds $name outside lib/, or not at all: $path"
  done <"$WORK/loaded"
}

# starts PROGRAM PATTERN [ARGUMENT...]: it must exit with 0 and print something like PATTERN.
starts() {
  local program="$1" pattern="$2" code=0
  shift 2
  isolated "$program" "$@" >"$WORK/said" 2>&1 || code=$?
  if [[ $code -ne 0 ]] || ! grep -qE -- "$pattern" "$WORK/said"; then
    problem "$program $* exits with $code: $(tail -n 5 "$WORK/said")"
  fi
}

check_starts() {
  local path name version="${TOP#engramd-}"
  version="${version%-x86_64}"
  for path in "$ROOT/$TOP"/bin/*; do
    check_loaded "${path##*/}"
  done
  stop_at_problems
  starts engramd "^engramd ${version//./\\.}\$" --version
  starts engramd 'configuration is good' --check-config
  starts engramd 'configuration is good' --config "$(shown_sample)" --check-config
  starts engramctl "^engramctl ${version//./\\.}\$" --version
  starts engramctl 'Usage: ' --help
  starts engram_bench 'Usage: ' --help
  # That they start here is the question; the tests of warps take minutes and are run elsewhere.
  for path in "$ROOT/$TOP"/bin/unit_gpu_cache*; do
    name="${path##*/}"
    starts "$name" '\[  (PASSED|SKIPPED) ' --gtest_color=no '--gtest_filter=-*Gather*'
  done
  stop_at_problems
}

# Where the programs see the sample configuration.
shown_sample() {
  [[ "$ISOLATION" != env ]] || printf '%s' "$ROOT"
  printf '/%s/share/engramd.yaml' "$TOP"
}

main() {
  parse_arguments "$@"
  WORK="$(mktemp -d "${TMPDIR:-/tmp}/engram-check.XXXXXX")"
  trap 'rm -rf "$WORK"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  check_size
  unpack
  check_demands
  copy_glibc
  choose_isolation
  echo "isolation: $ISOLATION"
  check_starts
  echo "every program starts"
}

main "$@"
