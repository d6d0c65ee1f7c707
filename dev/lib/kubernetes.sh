# Kubernetes, etcd and Helm, built from Go modules into the cache (about six minutes on two cores, once).
# shellcheck shell=bash

kubernetes_bin=$cache/kubernetes-$kubernetes_version-etcd-$etcd_version-helm-$helm_version
kubectl=$kubernetes_bin/kubectl
helm=$kubernetes_bin/helm

build_kubernetes() {
  [ ! -d "$kubernetes_bin" ] || return 0
  use_go
  once "$kubernetes_bin" compile_kubernetes
}

compile_kubernetes() {
  local bin=$1 version=k8s.io/component-base/version minor=${kubernetes_version%.*}
  mkdir -p "$bin"
  export CGO_ENABLED=0
  # the version in go.mod and in versions.sh are one thing said twice: say so when they differ
  grep -q "k8s.io/kubernetes v$kubernetes_version" "$repo/dev/kubernetes/kubernetes/go.mod" || die "dev/kubernetes/kubernetes/go.mod is not of Kubernetes $kubernetes_version"
  grep -q "go.etcd.io/etcd/server/v3 v$etcd_version" "$repo/dev/kubernetes/etcd/go.mod" || die "dev/kubernetes/etcd/go.mod is not of etcd $etcd_version"
  say "    Kubernetes $kubernetes_version"
  quietly go -C "$repo/dev/kubernetes/kubernetes" build -trimpath \
    -ldflags "-s -w -X $version.gitVersion=v$kubernetes_version -X $version.gitMajor=${minor%.*} -X $version.gitMinor=${minor#*.}" -o "$bin/" tool
  say "    etcd $etcd_version"
  quietly go -C "$repo/dev/kubernetes/etcd" build -trimpath -ldflags '-s -w' -o "$bin/etcd" go.etcd.io/etcd/server/v3
  say "    Helm $helm_version"
  # the version of Kubernetes that `helm template` means; by default an old one
  local helm_kubernetes=helm.sh/helm/v3/pkg/chartutil.k8sVersion
  quietly env GOBIN="$bin" go install -trimpath -ldflags "-s -w -X ${helm_kubernetes}Major=${minor%.*} -X ${helm_kubernetes}Minor=${minor#*.}" "helm.sh/helm/v3/cmd/helm@v$helm_version"
  cp "$(go -C "$repo/dev/kubernetes/kubernetes" list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c" "$bin/pause.c"
}
