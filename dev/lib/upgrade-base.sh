# The upgrade base, the commit from which upgrades are tested: its source, programs, images and chart.
# shellcheck shell=bash

upgrade_base_source=$cache/source-$upgrade_base
upgrade_base_artifacts=$cache/artifacts-$upgrade_base-${CAMOFLEET_PROFILE:-dev}

has_upgrade_base() { [ -d "$upgrade_base_source" ] || git -C "$repo" cat-file -e "$upgrade_base^{commit}" 2>/dev/null; }

# with_upgrade_base COMMAND…: runs a function of this library on the upgrade base.
with_upgrade_base() {
  once "$upgrade_base_source" extract_upgrade_base
  once "$upgrade_base_artifacts" build_upgrade_base
  local repo=$upgrade_base_source artifacts=$upgrade_base_artifacts
  # In a subshell, so that variables that the command sets, such as image names, keep their values for the current
  # version.
  ("$@")
}

extract_upgrade_base() {
  mkdir -p "$1"
  git -C "$repo" archive "$upgrade_base" | tar -x -C "$1"
}

build_upgrade_base() {
  local repo=$upgrade_base_source artifacts=$1
  build_artifacts
}

# Uninstalls the current release and installs the chart. Only the CRDs remain, because Helm keeps them.
install_fresh() {
  build_images
  quietly "$helm" --kubeconfig "$admin_kubeconfig" uninstall camo-fleet --namespace "$release_namespace" --ignore-not-found --wait
  install_chart
}
