# Shared by the scripts of this folder, which source it.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Ends well, for what is missing is no fault of the cache.
skip() {
    echo "skipped: $*"
    exit 0
}

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# Sets `warm` to the program that is interrupted: CAIRN_WARM, or the crate's example, built here.
find_warm() {
    warm=${CAIRN_WARM:-}
    if [[ -z $warm ]]; then
        (cd "$repository" && cargo build --quiet --package cairn-graph-cache --example warm)
        local target=${CARGO_TARGET_DIR:-$repository/target}
        warm=$target/debug/examples/warm
    fi
    [[ -x $warm ]] || fail "there is no program \`$warm\`"
}

# Sets `work` to a new folder, in memory where that can be had, removed at the end.
make_work_folder() {
    local parent=${TMPDIR:-/tmp}
    [[ -d /dev/shm && -w /dev/shm ]] && parent=/dev/shm
    work=$(mktemp -d "$parent/cairn-faults.XXXXXX")
    trap 'rm -rf "$work"' EXIT
}

# What a reader finds is whole but for so many entries, and the next run puts everything right.
check() {
    local folder=$1 what=$2 damages=${3:-0} code=0
    "$warm" "$folder" check "$damages" >"$work/check.txt" 2>&1 || code=$?
    if [[ $code -ne 0 ]]; then
        cat "$work/check.txt" >&2
        fail "$what: the check ended with $code"
    fi
}
