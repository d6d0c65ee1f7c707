# shellcheck shell=bash
lib=$(dirname "${BASH_SOURCE[0]}")
for part in progress common versions packages toolchains kubernetes images cluster cluster-down release upgrade-base; do
  # shellcheck source=/dev/null
  . "$lib/$part.sh"
done
unset part
