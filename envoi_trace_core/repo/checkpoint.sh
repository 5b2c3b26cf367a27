#!/bin/sh
# Exact checkpoints of a workspace, in a git repository of our own beside it.
#
#   checkpoint.sh init             make the repository, or mend its configuration
#   checkpoint.sh commit CALL_ID   the agent's hook: record the workspace under that call; always exits 0, prints nothing
#   checkpoint.sh fetch KEY BASE   print what was recorded under KEY, and the objects that BASE lacks;
#                                  KEY '-', or a call whose hook never ran: the workspace as it is now
#   checkpoint.sh restore COMMIT   make the workspace COMMIT, whose objects come as a pack on stdin
#
# Written beside this file by the orchestrator: settings (WORKSPACE, COMMAND_PATH, MAX_FILE_BYTES, PRUNE), excludes.
# Kept here: repo.git, log (append-only: STATUS KEY COMMIT TREE NOTE), skipped/, stamps.
# Needs a POSIX shell, git >= 2.30, coreutils and findutils. It has to be quick: the agent waits for it. So the
# usual checkpoint starts four git and file processes, and everything rare is behind one `find`.

set -u
umask 022
unset CDPATH
LC_ALL=C
export LC_ALL

HERE=${0%/*}
. "$HERE/settings"
PATH=$COMMAND_PATH
export PATH
LOG=$HERE/log
EMPTY_BLOB=e69de29bb2d1d6434b8b29ae775ad8c2e48c5391

# The agent's environment may steer git (GIT_DIR, GIT_INDEX_FILE, GIT_CONFIG_COUNT, ...): none of it counts here.
case "$(set)" in
*GIT_*)
    for name in $(set | sed -n 's/^\(GIT_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
    ;;
esac
GIT_DIR=$HERE/repo.git
GIT_WORK_TREE=$WORKSPACE
GIT_CONFIG_NOSYSTEM=1
GIT_CONFIG_GLOBAL=/dev/null
GIT_ATTR_NOSYSTEM=1
GIT_TERMINAL_PROMPT=0
GIT_AUTHOR_NAME=envoi-trace
GIT_AUTHOR_EMAIL=envoi-trace@localhost
GIT_COMMITTER_NAME=envoi-trace
GIT_COMMITTER_EMAIL=envoi-trace@localhost
export GIT_DIR GIT_WORK_TREE GIT_CONFIG_NOSYSTEM GIT_CONFIG_GLOBAL GIT_ATTR_NOSYSTEM GIT_TERMINAL_PROMPT
export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL

init() {
    mkdir -p "$HERE/skipped" || return 1
    if [ ! -d "$GIT_DIR/objects" ] || [ ! -f "$GIT_DIR/HEAD" ]; then
        # Without GIT_WORK_TREE: git would write it into the configuration.
        (unset GIT_DIR GIT_WORK_TREE && cd "$HERE" &&
            git init -q --bare --template= --object-format=sha1 repo.git) || return 1
    fi
    mkdir -p "$GIT_DIR/info" || return 1
    cat >"$GIT_DIR/config" <<-'END' || return 1
	[core]
	repositoryformatversion = 0
	bare = false
	autocrlf = false
	safecrlf = false
	fileMode = true
	symlinks = true
	ignoreCase = false
	precomposeUnicode = false
	protectNTFS = false
	protectHFS = false
	logAllRefUpdates = false
	hooksPath = /dev/null
	fsmonitor = false
	untrackedCache = false
	excludesFile = /dev/null
	attributesFile = /dev/null
	looseCompression = 1
	fsync = none
	[pack]
	compression = 1
	threads = 1
	[gc]
	auto = 0
	[maintenance]
	auto = false
	[commit]
	gpgSign = false
	[advice]
	addEmbeddedRepo = false
	END
    # info/attributes wins over every .gitattributes of the workspace: its bytes are recorded as they are.
    printf '%s\n' '* -text -crlf -eol -ident -filter -working-tree-encoding' >"$GIT_DIR/info/attributes" &&
        cat "$HERE/excludes" >"$GIT_DIR/info/exclude"
}

# Whether the holder of the lock is dead; one without an owner belongs to a process that died before it noted itself.
is_stale() {
    owner=
    [ -f "$HERE/lock.d/pid" ] && read -r owner <"$HERE/lock.d/pid"
    if [ -n "$owner" ]; then
        ! kill -0 "$owner" 2>/dev/null
    else
        [ "$tries" -gt 100 ]
    fi
}

# One checkpoint at a time. flock is let go by the kernel however its holder dies, in any pid namespace.
lock() {
    exec 9>"$HERE/lock" || return 1
    if command -v flock >/dev/null 2>&1; then
        flock -w 300 9
        return
    fi
    tries=0
    until mkdir "$HERE/lock.d" 2>/dev/null; do
        tries=$((tries + 1))
        # One at a time looks whether the lock is a dead one's: between looking and breaking nobody else may take it.
        if mkdir "$HERE/lock.break" 2>/dev/null; then
            is_stale && rm -rf "$HERE/lock.d"
            rm -rf "$HERE/lock.break"
        elif [ "$tries" -gt 300 ]; then
            rm -rf "$HERE/lock.break" # whoever looked died over it
        fi
        [ "$tries" -gt 3000 ] && return 1
        sleep 0.1
    done
    echo "$$" >"$HERE/lock.d/pid"
    trap 'rm -rf "$HERE/lock.d"' EXIT
}

# A call id is any text: what is not plain is named by its hash.
key_of() {
    case $1 in
    '' | *[!A-Za-z0-9_-]*) ;;
    *)
        if [ "${#1}" -le 100 ]; then
            KEY=c-$1
            return
        fi
        ;;
    esac
    KEY=h-$(printf '%s' "$1" | git hash-object --stdin)
}

# find, without the workspace's own .git and without what is excluded by default.
search() {
    set -- "$@" -print0
    # The arguments are rotated: what to prune goes first.
    count=$#
    set -- "$@" -path ./.git -prune
    for name in $PRUNE; do set -- "$@" -o -type d -name "$name" -prune; done
    set -- "$@" -o
    while [ "$count" -gt 0 ]; do
        set -- "$@" "$1"
        shift
        count=$((count - 1))
    done
    find . "$@" 2>/dev/null
}

# Seed the index under each nested repository, so that `git add` takes it for a plain folder: it looks at the
# index first. The seeds are no files, so the same `git add` takes them out again.
seed_nested() {
    search -name .git -prune >"$HERE/nested"
    [ -s "$HERE/nested" ] || return 0
    # shellcheck disable=SC2016
    xargs -0 sh -c '
        blob=$1
        shift
        for path; do
            folder=${path%/.git}
            printf "100644 %s\t%s/.envoi-trace-seed\0" "$blob" "${folder#./}"
        done' sh "$EMPTY_BLOB" <"$HERE/nested" | git update-index --replace -z --index-info
}

# Name the files above the limit, those that are ignored anyway apart, and take them out of the index.
find_skipped() {
    search '(' -name .git -prune ! -name .git -o -type f -size "+${MAX_FILE_BYTES}c" ')' >"$HERE/big"
    [ -s "$HERE/big" ] || return 0
    git check-ignore -z --stdin <"$HERE/big" >"$HERE/big.ignored"
    git update-index -z --force-remove --stdin <"$HERE/big" || return 1
    # shellcheck disable=SC2016
    {
        printf '.\0'
        xargs -0 sh -c 'for path; do printf ":(exclude,literal)%s\0" "${path#./}"; done' sh <"$HERE/big"
    } >"$HERE/pathspecs"
}

# git's quick look at a file compares seconds. A file with new content whose time was set back (cp -p, tar, touch)
# can pass as unchanged; an index that is older than every file makes git compare contents.
distrust_index() {
    [ -f "$previous_stamp" ] && [ -f "$GIT_DIR/index" ] || return 0
    search -type f -cnewer "$previous_stamp" ! -newer "$previous_stamp" >"$HERE/set-back"
    [ -s "$HERE/set-back" ] && touch -t 197001020000 "$GIT_DIR/index"
    return 0
}

# What needs more than a plain `git add`: nested repositories, large files, times set back.
look_for_oddities() {
    rm -f "$HERE/pathspecs" "$HERE/big" "$HERE/big.ignored"
    distrust_index
    seed_nested && find_skipped
}

add_once() {
    if [ -f "$GIT_DIR/index" ] && [ -f "$previous_stamp" ]; then
        search '(' -name .git -prune -o -type f '(' -size "+${MAX_FILE_BYTES}c" -o \
            -cnewer "$previous_stamp" ! -newer "$previous_stamp" ')' ')' >"$HERE/odd"
    else
        echo unknown >"$HERE/odd"
    fi
    if [ -s "$HERE/odd" ]; then
        look_for_oddities || return 128
    fi
    if [ -s "$HERE/odd" ] && [ -s "$HERE/pathspecs" ]; then
        git add -A --ignore-errors --pathspec-from-file="$HERE/pathspecs" --pathspec-file-nul
    else
        git add -A --ignore-errors
    fi
}

# Where files come and go so fast that `git add` never gets through: batch by batch, and what vanishes is left out.
add_by_batches() {
    echo unknown >"$HERE/odd"
    look_for_oddities || return 128
    # shellcheck disable=SC2016
    git ls-files -z --others --modified --deleted --exclude-standard | xargs -0 -n 64 sh -c '
        git update-index --add --remove --replace -- "$@" 2>/dev/null && exit 0
        for path; do git update-index --add --remove --replace -- "$path" || :; done' sh
    if [ -s "$HERE/big" ]; then
        git update-index -z --force-remove --stdin <"$HERE/big"
    fi
    return 1
}

# The tree of the workspace, in TREE.
make_tree() {
    TREE=
    for attempt in 1 2 3 4 5 6; do
        add_once
        status=$?
        [ "$status" -le 1 ] && break
        rm -f "$GIT_DIR/index.lock" # We hold the lock, so its owner is dead.
    done
    if [ "$status" -gt 1 ]; then
        add_by_batches
    fi
    # With --ignore-errors, 1 says that some file was left out (unreadable, vanished): stderr names it.
    [ "$status" -eq 0 ] || NOTE=$(tr -c '[:print:]' ' ' <"$HERE/stderr" | tail -c 600)
    TREE=$(git write-tree)
}

# What the sandbox's copy has lost (a damaged index, deleted objects) is made again from the workspace.
rebuild() {
    rm -f "$GIT_DIR/index" "$GIT_DIR/index.lock"
    init && make_tree && return 0
    rm -rf "$GIT_DIR"
    init && make_tree
}

read_head() {
    HEAD_COMMIT=
    HEAD_TREE=
    [ -s "$LOG" ] || return 0
    read -r _status _key HEAD_COMMIT HEAD_TREE _rest <<-END
	$(tail -n 1 "$LOG")
	END
    [ "$HEAD_COMMIT" != - ] || HEAD_COMMIT=
}

# Record the workspace under $1. What goes wrong stands in the log for the orchestrator to report.
record() {
    key=$1
    NOTE=
    slot=0
    [ -f "$HERE/slot" ] && read -r slot <"$HERE/slot"
    case $slot in 1) next=0 ;; *) slot=0 next=1 ;; esac
    previous_stamp=$HERE/stamp.$slot
    echo >"$HERE/stamp.$next"
    : >"$HERE/stderr"
    read_head
    if ! record_tree 2>>"$HERE/stderr"; then
        NOTE=$(tr -c '[:print:]' ' ' <"$HERE/stderr" | tail -c 600)
        printf 'failed %s %s %s %s\n' "$key" "${HEAD_COMMIT:--}" "${HEAD_TREE:--}" "$NOTE" >>"$LOG"
        return 1
    fi
    echo "$next" >"$HERE/slot"
    if [ -s "$HERE/odd" ] && [ -s "$HERE/big" ]; then
        cp "$HERE/big" "$HERE/skipped/$key.big" && cp "$HERE/big.ignored" "$HERE/skipped/$key.ignored"
    elif [ -f "$HERE/skipped/$key.big" ]; then
        rm -f "$HERE/skipped/$key.big" "$HERE/skipped/$key.ignored"
    fi
    printf 'ok %s %s %s %s\n' "$key" "$COMMIT" "$TREE" "$NOTE" >>"$LOG"
}

record_tree() {
    cd "$WORKSPACE" || return 1
    [ -f "$GIT_DIR/config" ] && [ -f "$GIT_DIR/info/exclude" ] || init || return 1
    make_tree || rebuild || return 1
    COMMIT=$HEAD_COMMIT
    [ -n "$COMMIT" ] && [ "$TREE" = "$HEAD_TREE" ] && [ -d "$GIT_DIR/objects" ] && return 0
    if [ -n "$COMMIT" ] && COMMIT=$(git commit-tree "$TREE" -p "$COMMIT" -m "$key"); then return 0; fi
    COMMIT=$(git commit-tree "$TREE" -m "$key")
}

commit() {
    if ! lock; then
        printf 'failed %s - - %s\n' "$1" 'another checkpoint did not end in time' >>"$LOG"
        return
    fi
    record "$1"
}

fetch() {
    key=$1
    base=$2
    lock || exit 75
    line=
    ran=hook
    [ "$key" = - ] || [ ! -f "$LOG" ] || line=$(grep "^[a-z]* $key " "$LOG" | tail -n 1)
    hook_note=
    case $line in
    'ok '*) ;;
    *)
        ran=late
        # A hook that failed is reported, and made up for.
        [ -z "$line" ] || hook_note="the hook failed: ${line#* * * * }"
        record "$key"
        line=$(tail -n 1 "$LOG")
        ;;
    esac
    exec 9>&-
    read -r status _key commit tree note <<-END
	$line
	END
    printf 'status %s\nran %s\ncommit %s\ntree %s\nnote %s\n' "$status" "$ran" "$commit" "$tree" "${hook_note:+$hook_note }$note"
    for kind in big ignored; do
        file=$HERE/skipped/$key.$kind
        if [ -s "$file" ]; then
            printf '%s %s\n' "$kind" "$(wc -c <"$file" | tr -d ' ')"
            cat "$file"
        else
            printf '%s 0\n' "$kind"
        fi
    done
    if [ "$commit" = - ] || [ "$commit" = "$base" ]; then
        printf 'pack none\n'
        return 0
    fi
    if [ -n "$base" ] && git cat-file -e "$base^{commit}" 2>/dev/null; then
        printf 'pack thin\n'
        revisions="$commit
^$base"
    else
        printf 'pack whole\n'
        revisions=$commit
    fi
    printf '%s\n' "$revisions" | git pack-objects --revs --thin --stdout --delta-base-offset -q
}

restore() {
    lock || exit 75
    rm -rf "$GIT_DIR" "$LOG" "$HERE/skipped"
    mkdir -p "$WORKSPACE" && cd "$WORKSPACE" || exit 1
    find . -mindepth 1 -maxdepth 1 -exec rm -rf -- {} + || exit 1
    init && git index-pack --stdin >/dev/null && git read-tree "$1" && git checkout-index -a -f -q || exit 1
    tree=$(git rev-parse --verify -q "$1^{tree}") || exit 1
    printf 'ok restore %s %s \n' "$1" "$tree" >>"$LOG"
}

case ${1-} in
init)
    lock || exit 75
    init
    ;;
commit)
    key_of "${2-}"
    commit "$KEY" </dev/null >/dev/null 2>&1
    exit 0
    ;;
fetch) fetch "$2" "${3-}" </dev/null ;;
restore) restore "$2" ;;
*)
    echo "usage: checkpoint.sh init | commit CALL_ID | fetch KEY BASE | restore COMMIT" >&2
    exit 64
    ;;
esac
