# Installs Debian packages that are missing.
# shellcheck shell=bash

cluster_packages=(containerd runc containernetworking-plugins iproute2 iptables conntrack ethtool openssl procps kmod)
image_packages=(buildah skopeo mmdebstrap)
compile_packages=(gcc libc6-dev make pkg-config ca-certificates)
python_packages=(python3 python3-venv)

apt_install() {
  if [ -n "$(missing_packages "$@")" ]; then one_at_a_time packages install_packages "$@"; fi
}

missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || say "$package"
  done
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0 # another part of dev/test has installed them in the meantime
  say "    apt-get install ${missing[*]}"
  # An interrupted run may have left packages unpacked but not configured.
  without_services quietly dpkg --configure -a
  [ "${apt_updated:-}" = yes ] || quietly apt-get -o DPkg::Lock::Timeout=300 update
  apt_updated=yes
  # Without services, because the cluster starts a containerd of its own.
  without_services quietly env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
}

services_policy=/usr/sbin/policy-rc.d
services_policy_mark='# while camo-fleet installs packages'

# without_services COMMAND…: prevents packages that the command installs from starting services (Debian's policy-rc.d).
without_services() {
  allow_services
  # Keep a policy that the machine already has.
  if [ -e "$services_policy" ]; then "$@"; return; fi
  printf '#!/bin/sh\n%s\nexit 101\n' "$services_policy_mark" >"$services_policy"
  chmod 755 "$services_policy"
  local status=0
  "$@" || status=$?
  allow_services
  return "$status"
}

# Removes the policy that prevents services, including that of an interrupted installation.
allow_services() {
  if grep -qxF "$services_policy_mark" "$services_policy" 2>/dev/null; then rm -f "$services_policy"; fi
}
