#!/usr/bin/env bash
# The cache is interrupted at each system call that it makes.
#
#   killed    SIGKILL instead of the call
#   failed    the call fails once: no space, an input error, a quota that is used up
#   no more   the call fails from then on: a disk that stays full
#
# After each: every graph was delivered, with one warning at most (unless the process is dead);
# nothing torn is in the store; the next run puts all right. And in a run without faults, everything
# is flushed to the disk before it appears under its name.
#
#   tests/faults/cache_strace.sh            every call: about five minutes
#   tests/faults/cache_strace.sh --quick    some of them, for half a minute
#   CAIRN_WARM=program                      the program to be interrupted (default: built here)
#
# Needs strace, and the right to trace. Ends with 0 where that is missing, and says so.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

max_points=1000000
case "${1:-}" in
    '') ;;
    --quick) max_points=500 ;;
    *) echo "usage: $0 [--quick]" >&2; exit 2 ;;
esac

command -v strace >/dev/null || skip "there is no strace"
strace -f -o /dev/null true 2>/dev/null || skip "nothing can be traced here"
find_warm
make_work_folder

# Calls that change something, and calls that look.
changing='mkdir,openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,ftruncate,utimensat,fchmod,flock'
looking='read,pread64,statx,newfstatat,fstat,lstat,stat,getdents64,readlink,lseek,close,clone3'

# The store that a run begins with: `none`, or one with a good entry, one that is damaged, and a
# thing that somebody has left.
prepare() {
    rm -rf "$work/cache"
    if [[ $1 == some ]]; then
        cp -a "$work/some" "$work/cache"
    fi
}

"$warm" "$work/some" >/dev/null
damaged=$(find "$work/some" -name code.bin | sort | head -n 1)
printf 'damage' | dd of="$damaged" bs=1 seek=100 conv=notrunc status=none
mkdir "$work/some/v2/tmp/gone-1-2-3.4"
echo half >"$work/some/v2/tmp/gone-1-2-3.4/code.bin"

# How many entries of it are damaged.
damages() {
    if [[ $1 == some ]]; then echo 1; else echo 0; fi
}

# Runs the program, its calls tampered with; sets `code`.
run() {
    local inject=$1 start=$2 what=$3
    code=0
    # In a shell of its own, which tells of a signal where nobody reads it.
    (
        timeout 60 strace -f -qq -o "$work/trace" -e "trace=${inject%%:*}" -e "inject=$inject" \
            "$warm" "$work/cache" "$what" "$(damages "$start")"
        exit $?
    ) >"$work/output.txt" 2>&1 || code=$?
}

# Every call of the first thread and how often it makes it, as lines of `CALL FROM TO`: what the
# program does before it comes to its work is left out. `what` is what it does.
points() {
    local start=$1 what=$2 calls=$3
    for did in nothing "$what"; do
        prepare "$start"
        strace -f -qq -o "$work/trace" -e "trace=$calls" "$warm" "$work/cache" "$did" \
            "$(damages "$start")" >/dev/null 2>&1 || fail "a run without faults failed"
        local first
        first=$(awk '{ print $1; exit }' "$work/trace")
        # A call that another thread gets in between is shown in two parts, of which this is one.
        awk -v first="$first" '$1 == first && match($2, /^[a-z0-9_]+\(/) {
                count[substr($2, 1, RLENGTH - 1)]++
            }
            END { for (call in count) print call, count[call] }' "$work/trace" |
            sort >"$work/counts.$did"
    done
    join -a 2 -e 0 -o 0,1.2,2.2 "$work/counts.nothing" "$work/counts.$what"
}

# All that is to be tried, one line each: KIND START WHAT CALL:...
plan() {
    local start what call from to n
    for scenario in 'none ask' 'some ask' 'some busy'; do
        read -r start what <<<"$scenario"
        while read -r call from to; do
            for ((n = from + 1; n <= to; n++)); do
                echo "killed $start $what $call:signal=SIGKILL:when=$n"
                if [[ $call == close || $call == clone3 ]]; then
                    continue
                fi
                echo "failed $start $what $call:error=EIO:when=$n"
                if [[ ,$changing, == *,$call,* ]]; then
                    echo "failed $start $what $call:error=ENOSPC:when=$n"
                    echo "failed $start $what $call:error=EDQUOT:when=$n"
                fi
                # Not of `openat`: on a full disk, what is there can still be opened.
                if [[ $call != openat && ,$changing, == *,$call,* ]]; then
                    echo "no-more $start $what $call:error=ENOSPC:when=$n+"
                fi
            done
        done < <(points "$start" "$what" "$changing,$looking")
    done
}

plan >"$work/plan"
num_all=$(wc -l <"$work/plan")
# Evenly spread, and not all of one kind: a step that shares no divisor with the kinds.
step=$((num_all / max_points + 1))
((step > 1 && step % 2 == 0)) && step=$((step + 1))
started=$SECONDS
tried=0 killed=0 failed=0
while read -r kind start what inject; do
    prepare "$start"
    run "$inject" "$start" "$what"
    name="$kind, $start, $what, $inject"
    tried=$((tried + 1))
    case $kind,$code in
        killed,137) killed=$((killed + 1)) ;;
        # A call that was not made this time, or only by another thread.
        killed,0) ;;
        *,0) if grep -q INJECTED "$work/trace"; then failed=$((failed + 1)); fi ;;
        *) cat "$work/output.txt" >&2; fail "$name: ended with $code" ;;
    esac
    [[ -d $work/cache ]] && check "$work/cache" "$name" "$(damages "$start")"
done < <(awk -v step="$step" 'NR % step == 0' "$work/plan")
echo "$tried of $num_all interruptions in $((SECONDS - started)) s: $killed times killed," \
    "$failed times failed calls, and the cache was good after each"
((killed + failed > tried / 2)) || fail "hardly anything was interrupted"

# What appears under its name was flushed before, and so was its name afterwards.
prepare none
strace -f -y -qq -o "$work/trace" -e trace=openat,fsync,fdatasync,rename,renameat,renameat2 \
    "$warm" "$work/cache" >/dev/null
awk '
    function path_in(text) { return match(text, /<\/[^>]*>/) ? substr(text, RSTART + 1, RLENGTH - 2) : "" }
    / openat\(/ && /O_CREAT/ && / = [0-9]+</ {
        text = $0; sub(/.* = [0-9]+/, "", text); unflushed[path_in(text)] = 1
    }
    / f(data)?sync\(/ && / = 0$/ {
        path = path_in($0); delete unflushed[path]; delete unnamed[path]; flushed[path] = 1
    }
    / rename[a-z0-9]*\(/ && / = 0$/ {
        count = split($0, part, "\""); from = part[2]; to = part[count - 1]
        if (to !~ /\/entries\//) next
        num_entries++
        for (path in unflushed) if (index(path, from "/") == 1) {
            print "not flushed before it appeared: " path; bad = 1
        }
        if (!(from in flushed)) { print "its names not flushed before it appeared: " from; bad = 1 }
        parent = to; sub(/\/[^\/]*$/, "", parent); unnamed[parent] = to
    }
    END {
        for (path in unnamed) { print "its name was never flushed: " unnamed[path]; bad = 1 }
        if (num_entries != 3) { print num_entries + 0 " entries appeared, expected 3"; bad = 1 }
        exit bad
    }' "$work/trace" || fail "an entry could be torn by a power cut"
echo "every file was flushed before its entry appeared"
