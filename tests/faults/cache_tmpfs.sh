#!/usr/bin/env bash
# The cache on disks that are really full, or can really only be read: small file systems in memory,
# of so many bytes or so many files, and one that is mounted again to be read.
#
# On each, every graph is delivered, with one warning at most, and nothing torn is left; when there
# is room again, the next run puts all right.
#
#   tests/faults/cache_tmpfs.sh             every size: about a minute
#   tests/faults/cache_tmpfs.sh --quick     some of them
#   CAIRN_WARM=program                      the program to be run (default: built here)
#
# Needs root and unshare, for mounts that nobody else sees. Ends with 0 where they are missing.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

step=1
case "${1:-}" in
    '') ;;
    --quick) step=5 ;;
    *) echo "usage: $0 [--quick]" >&2; exit 2 ;;
esac

if [[ -z ${CAIRN_FAULTS_UNSHARED:-} ]]; then
    [[ $(id -u) == 0 ]] || skip "only root can mount"
    command -v unshare >/dev/null || skip "there is no unshare"
    unshare -m mount -t tmpfs none /mnt 2>/dev/null || skip "nothing can be mounted here"
    find_warm
    CAIRN_FAULTS_UNSHARED=1 CAIRN_WARM=$warm exec unshare -m "${BASH_SOURCE[0]}" "$@"
fi

find_warm
make_work_folder
disk=$work/disk
mkdir "$disk"
num_disks=0

# Delivers all, on a disk that is mounted with these options, and is then good.
try() {
    local options=$1 what=${2:-} code=0
    mount -t tmpfs -o "mode=700,$options" cairn "$disk"
    "$warm" "$disk/cache" ${what:+"$what"} >"$work/output.txt" 2>&1 || code=$?
    if [[ $code -ne 0 ]]; then
        cat "$work/output.txt" >&2
        umount "$disk"
        fail "$options $what: ended with $code"
    fi
    mount -o remount,size=16m,nr_inodes=10000 "$disk"
    if [[ -d $disk/cache ]]; then
        check "$disk/cache" "$options $what"
    fi
    umount "$disk"
    num_disks=$((num_disks + 1))
}

for ((kib = 4; kib <= 160; kib += 4 * step)); do
    try "size=${kib}k"
    try "size=${kib}k" busy
done
for ((files = 1; files <= 60; files += step)); do
    try "size=16m,nr_inodes=$files"
    try "size=16m,nr_inodes=$files" busy
done
echo "$num_disks full disks: every graph was delivered, and the cache was good afterwards"

# Full from one moment to the next, and not for ever.
mount -t tmpfs -o mode=700,size=400k cairn "$disk"
"$warm" "$disk/cache" >/dev/null
rm -rf "$disk"/cache/v2/entries/*
dd if=/dev/zero of="$disk/filler" bs=4k status=none 2>/dev/null || true
"$warm" "$disk/cache" >"$work/output.txt" || fail "a disk that became full: $(cat "$work/output.txt")"
rm "$disk/filler"
check "$disk/cache" "a disk that became full"
umount "$disk"

# What is there is used without a word; what is not is compiled, with one.
mount -t tmpfs -o mode=700,size=16m cairn "$disk"
"$warm" "$disk/cache" >/dev/null
mount -o remount,ro "$disk"
"$warm" "$disk/cache" >"$work/output.txt" || fail "read-only: $(cat "$work/output.txt")"
[[ $(grep -c 'Cache \[\]$' "$work/output.txt") == 3 ]] || fail "read-only: $(cat "$work/output.txt")"
mount -o remount,rw "$disk"
rm -rf "$disk"/cache/v2/entries/*
mount -o remount,ro "$disk"
"$warm" "$disk/cache" >"$work/output.txt" || fail "read-only, empty: $(cat "$work/output.txt")"
[[ $(grep -c 'Compiled' "$work/output.txt") == 3 ]] || fail "read-only: $(cat "$work/output.txt")"
"$warm" "$disk/new" >"$work/output.txt" || fail "read-only, no folder: $(cat "$work/output.txt")"
mount -o remount,rw "$disk"
check "$disk/cache" "once it could be written to again"
umount "$disk"
echo "a disk that can only be read is read, and done without where it has nothing"
