# Kubernetes, etcd and Helm, built from Go modules into the cache (about eight minutes on two cores, once).
# shellcheck shell=bash

kubernetes_bin=$cache/kubernetes-$kubernetes_version-etcd-$etcd_version-helm-$helm_version
kubectl=$kubernetes_bin/kubectl
helm=$kubernetes_bin/helm

build_kubernetes() {
  [ ! -d "$kubernetes_bin" ] || return 0
  use_go
  once "$kubernetes_bin" compile_kubernetes
}

# For scripts whose output is read by others: the progress goes where errors go, and nothing is said when all is there.
need_kubernetes() { [ -d "$kubernetes_bin" ] || step "Kubernetes, etcd and Helm" build_kubernetes >&2; }

# All of one module, so that what they have in common is compiled once.
compile_kubernetes() {
  local bin=$1 modules=$repo/dev/kubernetes version=k8s.io/component-base/version minor=${kubernetes_version%.*} module
  # the version that `helm template` means; by default an old one
  local helm_kubernetes=helm.sh/helm/v3/pkg/chartutil.k8sVersion
  mkdir -p "$bin"
  export CGO_ENABLED=0
  # the versions in go.mod and in versions.sh are one thing said twice: say so when they differ
  for module in "k8s.io/kubernetes v$kubernetes_version" "go.etcd.io/etcd/server/v3 v$etcd_version" "helm.sh/helm/v3 v$helm_version"; do
    grep -q "	$module\b" "$modules/go.mod" || die "dev/kubernetes/go.mod does not ask for $module"
  done
  quietly build_tools -trimpath -ldflags "-s -w \
    -X $version.gitVersion=v$kubernetes_version -X $version.gitMajor=${minor%.*} -X $version.gitMinor=${minor#*.} \
    -X ${helm_kubernetes}Major=${minor%.*} -X ${helm_kubernetes}Minor=${minor#*.}" -o "$bin/"
  mv "$bin/server" "$bin/etcd"
  cp "$(go -C "$modules" list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c" "$bin/pause.c"
}

# build_tools ARGUMENT…: prints the modules that it downloads, and then each package that it compiles and how many there are.
build_tools() {
  local packages
  packages=$(go -C "$modules" list -deps tool | wc -l) || return
  go -C "$modules" build -v "$@" tool 2>&1 | count_lines "$packages"
}
