# Shows the progress of long steps: on a terminal, one line that is redrawn every second; elsewhere, a new line after
# ten seconds without output.
# shellcheck shell=bash

progress_log= # file with the output of the running command or a line that describes it; empty outside of steps
progress_pid=
progress_end=$'\x04'

# begin_progress COMMAND SECONDS: until end_progress, sends all output through one process, which inserts the progress
# lines, so that lines never mix. COMMAND prints the current activity; without a terminal it is called after SECONDS
# without output. File descriptors: 7 is the input of that process, 8 and 9 are the original stdout and stderr.
begin_progress() {
  progress_log=$(mktemp)
  exec 7> >(show_progress "$@")
  progress_pid=$!
  exec 8>&1 9>&2 >&7 2>&1
}

end_progress() {
  if [ -z "$progress_pid" ] || [ "$BASH_SUBSHELL" != 0 ]; then return 0; fi
  # An end marker instead of the end of the file, because a background process may keep the pipe open.
  printf '%s\n' "$progress_end" || true
  exec >&8 2>&9 7>&- 8>&- 9>&-
  wait "$progress_pid" || true
  rm -f "$progress_log"
  progress_pid='' progress_log=''
}
# Also after an error or a signal, so that the shell's prompt does not mix with the last line.
trap end_progress EXIT

# note TEXT: describes the current activity if no command's output does.
note() { [ -z "$progress_log" ] || printf '%s\n' "$*" >"$progress_log"; }

show_progress() {
  local describe=$1 interval=$2 began=$SECONDS shown=$SECONDS line='' part status clear='' columns=160
  trap '' INT TERM HUP # the process of the step ends this one
  if [ -t 1 ]; then
    interval=1
    clear=$'\r\e[K'
    exec 3>&1
    columns=$(stty size <&3) || columns='24 80'
    columns=${columns#* }
    [ "$columns" -gt 0 ] || columns=80
  fi
  while true; do
    status=0
    IFS= read -r -t 1 part || status=$?
    line+=$part
    if [ "$status" -gt 128 ]; then # timeout without a complete line
      kill -0 $$ 2>/dev/null || break
      if [ $((SECONDS - shown)) -ge "$interval" ]; then
        shown=$SECONDS
        part="    $((SECONDS - began)) s  $("$describe" || true)"
        part=${part:0:columns-1}
        if [ -n "$clear" ]; then printf '%s%s' "$clear" "$part"; else printf '%s\n' "$part"; fi
      fi
      continue
    fi
    if [ -n "${line%"$progress_end"}" ] || { [ "$status" = 0 ] && [ "$line" = '' ]; }; then printf '%s%s\n' "$clear" "${line%"$progress_end"}"; fi
    if [ "$status" != 0 ] || [[ $line == *"$progress_end" ]]; then break; fi
    line='' shown=$SECONDS
  done
  printf '%s' "$clear"
}

# last_line FILE: the last line of a log. For a redrawn progress bar such as cargo's: its last state, without the bar.
last_line() {
  tail -c 4096 "$1" 2>/dev/null | tr '\r' '\n' | sed -E 's/\x1b\[[0-9;?]*[a-zA-Z]//g; s/\[[=> ]*\] *//; s/^[[:space:]]+//; s/[[:space:]]+$//' | awk 'NF { last = $0 } END { print last }' || true
}

last_line_of_step() { last_line "$progress_log"; }

# count_lines TOTAL: prefixes each line with its number, such as "3 of 12: ".
count_lines() { awk -v total="$1" '{ printf "%d of %d: %s\n", NR, total, $0; fflush() }'; }
