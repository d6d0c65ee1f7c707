# The previous version, from which upgrades are tested: its source, programs, images and chart.
# shellcheck shell=bash

previous_source=$cache/source-$previous_commit
previous_artifacts=$cache/artifacts-$previous_commit-${CAMOFLEET_PROFILE:-dev}

has_previous() { [ -d "$previous_source" ] || git -C "$repo" cat-file -e "$previous_commit^{commit}" 2>/dev/null; }

# with_previous COMMAND…: runs a function of this library on the previous version.
with_previous() {
  once "$previous_source" extract_previous
  once "$previous_artifacts" build_previous
  local repo=$previous_source artifacts=$previous_artifacts
  # In a subshell, so that variables that the command sets, such as image names, keep their values for the current
  # version.
  ("$@")
}

extract_previous() {
  mkdir -p "$1"
  git -C "$repo" archive "$previous_commit" | tar -x -C "$1"
}

build_previous() {
  local repo=$previous_source artifacts=$1
  build_artifacts
}

# Uninstalls the current release and installs the chart. Only the CRDs remain, because Helm keeps them.
install_fresh() {
  build_images
  quietly "$helm" --kubeconfig "$admin_kubeconfig" uninstall camo-fleet --namespace "$release_namespace" --ignore-not-found --wait
  install_chart
}
