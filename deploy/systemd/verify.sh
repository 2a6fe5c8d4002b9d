#!/bin/sh
# verify.sh UNIT SYSUSERS TMPFILES: has systemd's own tools check the files that are installed.
# Exits 77 (skipped) where there is no systemd.
set -eu
unit=$1 sysusers=$2 tmpfiles=$3

for tool in systemd-analyze systemd-sysusers systemd-tmpfiles; do
  if ! command -v "$tool" >/dev/null; then
    echo "skipped: no $tool here"
    exit 77
  fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The binary need not be installed: another stands in for it.
sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$unit" >"$work/engramd.service"
grep -q '^ExecStart=/bin/true --config /' "$work/engramd.service"
if grep '@[A-Za-z_]*@' "$work/engramd.service"; then exit 1; fi  # a variable left over
systemd-analyze verify --man=no --recursive-errors=no "$work/engramd.service" >"$work/said" 2>&1 || {
  cat "$work/said"
  exit 1
}
# Warnings do not fail systemd-analyze; they fail this.
if grep 'engramd' "$work/said"; then exit 1; fi

mkdir -p "$work/root/etc"
systemd-sysusers --root="$work/root" "$(realpath "$sysusers")" >/dev/null
grep -q '^engramd:.*:/var/lib/engramd:' "$work/root/etc/passwd"
grep -q '^engramd:' "$work/root/etc/group"
if [ "$(id -u)" = 0 ]; then
  systemd-tmpfiles --root="$work/root" --create "$(realpath "$tmpfiles")"
  [ "$(stat -c %a "$work/root/run/engramd")" = 755 ]
  [ "$(stat -c %a "$work/root/var/lib/engramd")" = 750 ]
fi
echo "unit, sysusers and tmpfiles are good"
