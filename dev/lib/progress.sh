# What is going on while a step takes long: on a terminal a line that is redrawn every second, elsewhere a new line every
# ten seconds.
# shellcheck shell=bash

progress_log= # the output of the command that runs now, or one line that describes it; empty outside of steps
progress_pid=
progress_end=$'\x04'

# begin_progress COMMAND SECONDS: until end_progress, output goes through one process, which adds the lines, so that they
# never mix with it. COMMAND prints what is going on; without a terminal it is called after SECONDS without output.
# File descriptors: 7 leads to that process, 8 and 9 are the original output and errors.
begin_progress() {
  progress_log=$(mktemp)
  exec 7> >(show_progress "$@")
  progress_pid=$!
  exec 8>&1 9>&2 >&7 2>&1
}

end_progress() {
  if [ -z "$progress_pid" ] || [ "$BASH_SUBSHELL" != 0 ]; then return 0; fi
  # not the end of the file: a process that was started meanwhile may hold it open
  printf '%s\n' "$progress_end" || true
  exec >&8 2>&9 7>&- 8>&- 9>&-
  wait "$progress_pid" || true
  rm -f "$progress_log"
  progress_pid='' progress_log=''
}
# also after an error or a signal, so that the prompt is not mixed with the last line
trap end_progress EXIT

# note TEXT: describes what goes on, where no command with an output does.
note() { [ -z "$progress_log" ] || printf '%s\n' "$*" >"$progress_log"; }

show_progress() {
  local describe=$1 interval=$2 began=$SECONDS shown=$SECONDS line='' part status clear='' columns=160
  trap '' INT TERM HUP # the step's process decides when this one ends
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
    if [ "$status" -gt 128 ]; then # nothing came, or no whole line
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

# The last line of a log. Of a bar that is redrawn, as cargo's, the last state, without the bar itself.
last_line() {
  tail -c 4096 "$1" 2>/dev/null | tr '\r' '\n' | sed -E 's/\x1b\[[0-9;?]*[a-zA-Z]//g; s/\[[=> ]*\] *//; s/^[[:space:]]+//; s/[[:space:]]+$//' | awk 'NF { last = $0 } END { print last }' || true
}

last_line_of_step() { last_line "$progress_log"; }

# count_lines TOTAL: puts "3 of 12: " before the lines.
count_lines() { awk -v total="$1" '{ printf "%d of %d: %s\n", NR, total, $0; fflush() }'; }
