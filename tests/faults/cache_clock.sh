#!/usr/bin/env bash
# Processes of different decades share a cache: nobody evicts the others' entries, takes the living
# for dead, or waits for ever.
#
#   tests/faults/cache_clock.sh
#   CAIRN_WARM=program             the program to be run (default: built here)
#
# Needs faketime. Ends with 0 where it is missing, and says so.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command -v faketime >/dev/null || skip "there is no faketime"
find_warm
make_work_folder

"$warm" "$work/cache" >/dev/null
for when in '+10 years' '-10 years' '+10 years' '+1 second'; do
    timeout 60 faketime -f "$when" "$warm" "$work/cache" >"$work/output.txt" ||
        fail "$when: $(cat "$work/output.txt")"
    num_hits=$(grep -c 'Cache \[\]$' "$work/output.txt" || true)
    [[ $num_hits == 3 ]] || fail "$when: $(cat "$work/output.txt")"
    timeout 60 faketime -f "$when" "$warm" "$work/cache" busy >"$work/output.txt" ||
        fail "$when, busy: $(cat "$work/output.txt")"
    check "$work/cache" "$when"
done
echo "processes of three decades shared the cache"
