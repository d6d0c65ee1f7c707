# Shared by every script in dev/: paths, messages, steps and locks.
# shellcheck shell=bash
set -Eeuo pipefail
shopt -s inherit_errexit

repo=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/camofleet
dot_dev=$repo/.dev
mkdir -p "$cache"
# All checkouts share a target folder, so that dependencies are compiled once.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
# Sort order and matched messages must not depend on the machine's language.
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "run this as root: it creates a network namespace, mounts and cgroups"; }

# step TITLE COMMAND…: prints the title, then the progress of the command (progress.sh) and its duration.
# The command runs in this shell and can set variables. Do not call step where errexit is off (if, ||, &&).
step() {
  local title=$1 started=$EPOCHREALTIME
  shift
  say "==> $title"
  current_step=$title
  begin_progress last_line_of_step 10
  "$@"
  end_progress
  current_step=
  say "    $(seconds_since "$started") s"
}
current_step=
# set -E makes functions inherit the trap. It prints once, not again in subshells.
trap '[ -z "$current_step" ] || [ "$BASH_SUBSHELL" != 0 ] || { printf "error: failed while: %s\n" "$current_step" >&2; current_step=; }' ERR

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# once PATH COMMAND…: creates PATH if it does not exist. The command gets PATH.part as its last argument and creates it;
# it is renamed when it is complete, so that an interruption leaves no partial PATH. Of two concurrent callers, one
# waits.
once() {
  local path=$1
  shift
  [ ! -e "$path" ] || return 0
  mkdir -p "$(dirname "$path")"
  local lock
  exec {lock}>"$path.lock"
  note "waiting for another script that creates ${path##*/}"
  flock "$lock"
  if [ ! -e "$path" ]; then
    rm -rf "$path.part"
    "$@" "$path.part"
    mv "$path.part" "$path"
  fi
  exec {lock}>&-
}

# one_at_a_time NAME COMMAND…: runs the command while no other caller with that name runs one.
one_at_a_time() {
  local lock
  exec {lock}>"$cache/$1.lock"
  flock "$lock"
  "${@:2}"
  exec {lock}>&-
}

# quietly COMMAND…: prints the command's output only if it fails. During a step, its last line is the progress.
quietly() {
  local log=$progress_log status=0
  [ -n "$log" ] || log=$(mktemp)
  "$@" >"$log" 2>&1 || status=$?
  # Without the earlier states of a redrawn progress bar.
  [ "$status" = 0 ] || { sed 's/.*\r//' "$log" >&2; say "failed ($status): $*" >&2; }
  if [ "$log" = "$progress_log" ]; then : >"$log"; else rm -f "$log"; fi
  return "$status"
}

# wait_for SECONDS WHAT COMMAND…: repeats the command until it succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  note "waiting for $what"
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { say "error: timed out waiting for $what" >&2; return 1; }
    sleep 0.1
  done
}

# The description of a command in dev/help: the first line of its comment.
summary_of() { sed -n '2s/^# //p' "$1"; }

# version_at_least HAVE WANT: whether the dotted version HAVE is WANT or newer.
version_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]; }
