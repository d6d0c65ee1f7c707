# Versions of everything that dev/ installs and builds. Names in the cache contain the version, so a change here
# rebuilds.
# shellcheck shell=bash disable=SC2034

rust_minimum=1.89 # rust-version of the workspace
go_minimum=1.25.7 # required by Vale; dev/kubernetes/go.mod requires less
node_minimum=24 # engines in ui/package.json
go_version=1.26.8    # installed if the machine has none that is new enough
node_version=24.19.0 # likewise, and always in the images

# Kubernetes 1.34, because kubelet 1.35 and later rejects cgroup v1. etcd 3.6, because older versions send the API
# server no progress notifications. Helm 3.19, because it uses the same libraries as Kubernetes 1.34, which are then
# compiled once.
kubernetes_version=1.34.4
etcd_version=3.6.5
helm_version=3.19.5

cargo_deny_version=0.20.2
vale_version=3.21.0
debian_release=bookworm

# The commit from which upgrades are tested (dev/test --long upgrade).
upgrade_base=e875b62461d6c36c7a3626b62a529218e1ac9a5c
