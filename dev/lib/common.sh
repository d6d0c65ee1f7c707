# Shared by every script of dev/: where things are, what is said, and how a thing is made once.
# shellcheck shell=bash
set -Eeuo pipefail
shopt -s inherit_errexit

repo=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/camofleet
dot_dev=$repo/.dev
mkdir -p "$cache"
# One target folder for all checkouts: dependencies are compiled once.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
# Scripts are read by machines with other languages too (sort order, messages that are matched).
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "run this as root: it makes a network namespace, mounts and cgroups"; }

# step WHAT COMMAND…: prints what is done, what is going on meanwhile (progress.sh), and how long it took.
# The command runs in this shell (it may set variables); it must not be called where errexit is off (if, ||, &&).
step() {
  local what=$1 started=$EPOCHREALTIME
  shift
  say "==> $what"
  current_step=$what
  begin_progress last_line_of_step 10
  "$@"
  end_progress
  current_step=
  say "    $(seconds_since "$started") s"
}
current_step=
# -E above lets functions run it. Said once, and not by subshells as well.
trap '[ -z "$current_step" ] || [ "$BASH_SUBSHELL" != 0 ] || { printf "error: failed while: %s\n" "$current_step" >&2; current_step=; }' ERR

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# once PATH COMMAND…: makes PATH if it is absent. The command makes PATH.part, which is moved when it is whole,
# so that an interruption leaves nothing half made; of two callers at a time one works and the other waits.
once() {
  local path=$1
  shift
  [ ! -e "$path" ] || return 0
  mkdir -p "$(dirname "$path")"
  local lock
  exec {lock}>"$path.lock"
  note "waiting for another script that makes ${path##*/}"
  flock "$lock"
  if [ ! -e "$path" ]; then
    rm -rf "$path.part"
    "$@" "$path.part"
    mv "$path.part" "$path"
  fi
  exec {lock}>&-
}

# one_at_a_time NAME COMMAND…: of all callers with that name one works and the others wait.
one_at_a_time() {
  local lock
  exec {lock}>"$cache/$1.lock"
  flock "$lock"
  "${@:2}"
  exec {lock}>&-
}

# quietly COMMAND…: shows what the command printed only if it failed. In a step its last line is the progress.
quietly() {
  local log=$progress_log status=0
  [ -n "$log" ] || log=$(mktemp)
  "$@" >"$log" 2>&1 || status=$?
  # without the states of a bar that is redrawn
  [ "$status" = 0 ] || { sed 's/.*\r//' "$log" >&2; say "failed ($status): $*" >&2; }
  if [ "$log" = "$progress_log" ]; then : >"$log"; else rm -f "$log"; fi
  return "$status"
}

# wait_for SECONDS WHAT COMMAND…: tries until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  note "waiting for $what"
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { say "error: waited in vain for: $what" >&2; return 1; }
    sleep 0.1
  done
}

# What dev/help prints for a command: the first line of its comment.
summary_of() { sed -n '2s/^# //p' "$1"; }

# version_at_least HAVE WANT: compares dotted versions.
version_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]; }
