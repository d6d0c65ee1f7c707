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

# For scripts whose output is parsed: prints progress to stderr, and nothing if the binaries exist.
need_kubernetes() { [ -d "$kubernetes_bin" ] || step "Kubernetes, etcd and Helm" build_kubernetes >&2; }

# Builds all binaries from one Go module, so that shared packages are compiled once.
compile_kubernetes() {
  local bin=$1 modules=$repo/dev/kubernetes version=k8s.io/component-base/version minor=${kubernetes_version%.*} module
  # The Kubernetes version that `helm template` assumes. The default is an old one.
  local helm_kubernetes=helm.sh/helm/v3/pkg/chartutil.k8sVersion
  mkdir -p "$bin"
  export CGO_ENABLED=0
  # go.mod repeats the versions of versions.sh.
  for module in "k8s.io/kubernetes v$kubernetes_version" "go.etcd.io/etcd/server/v3 v$etcd_version" "helm.sh/helm/v3 v$helm_version"; do
    grep -q "	$module\b" "$modules/go.mod" || die "dev/kubernetes/go.mod does not require $module, which dev/lib/versions.sh names: update one of them"
  done
  quietly build_tools -trimpath -ldflags "-s -w \
    -X $version.gitVersion=v$kubernetes_version -X $version.gitMajor=${minor%.*} -X $version.gitMinor=${minor#*.} \
    -X ${helm_kubernetes}Major=${minor%.*} -X ${helm_kubernetes}Minor=${minor#*.}" -o "$bin/"
  mv "$bin/server" "$bin/etcd"
  cp "$(go -C "$modules" list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c" "$bin/pause.c"
}

# build_tools ARGUMENT…: prints each module that it downloads and each package that it compiles, with a count of
# packages.
build_tools() {
  local packages
  packages=$(go -C "$modules" list -deps tool | wc -l) || return
  go -C "$modules" build -v "$@" tool 2>&1 | count_lines "$packages"
}
