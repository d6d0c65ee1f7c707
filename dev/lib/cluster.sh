# One Kubernetes node in a network namespace of its own. On the host's network it adds a veth pair and two routes.
# Forwarding and four iptables rules let pods reach what the host reaches. cluster-down.sh reverts all of it.
# shellcheck shell=bash

netns=camofleet
node=camofleet
release_namespace=camo-fleet # of the chart, and the default of dev/kubectl
host_address=172.31.251.1
node_address=172.31.251.2
pod_range=10.244.0.0/16
service_range=10.96.0.0/16

# Sockets, keys, logs and pids. The path is fixed, so that each checkout finds a cluster that another one started.
state=/run/camofleet
# Data that is too large for /run or needs exec permission. A link in $state leads other checkouts to it.
data=$cache/cluster           # etcd, kubelet with pod volumes, pod logs; deleted with the cluster
image_store=$cache/containerd # kept when the cluster is deleted, so that images are imported once
rule_comment=camofleet-dev

daemons=(etcd apiserver containerd controller-manager scheduler kubelet proxy)
admin_kubeconfig=$state/admin.kubeconfig

in_netns() { nsenter --net="/run/netns/$netns" "$@"; }
k() { "$kubectl" --kubeconfig "$admin_kubeconfig" "$@"; }
cri() { ctr --address "$state/containerd/containerd.sock" --namespace k8s.io "$@"; }

# Only one script at a time starts or stops the cluster. daemon() closes the lock and the file descriptors of a step (7
# to 9), because daemons must not inherit them.
lock_cluster() {
  exec {cluster_lock}>/run/camofleet.lock
  flock -n "$cluster_lock" || { say "    waiting for another script that starts or stops the cluster"; flock "$cluster_lock"; }
}
unlock_cluster() { exec {cluster_lock}>&-; }

cluster_up() {
  need_root
  lock_cluster
  if cluster_is_up; then
    say "    already running"
  else
    apt_install "${cluster_packages[@]}"
    remove_cluster # leftovers of an interrupted start or a reboot
    mkdir -p "$state/log" "$state/pki" "$state/cni" "$data" "$image_store"
    ln -sfn "$data" "$state/data"
    make_network
    make_certificates
    start_control_plane
    start_node
  fi
  unlock_cluster
}

cluster_is_up() {
  local name
  [ -e "/run/netns/$netns" ] && [ -e "$admin_kubeconfig" ] || return 1
  for name in "${daemons[@]}"; do daemon_is_alive "$name" || return 1; done
  node_is_ready
}

node_is_ready() { k --request-timeout=5s get node "$node" 2>/dev/null | grep -q ' Ready '; }

make_network() {
  modprobe -qa overlay veth bridge 2>/dev/null || true # may be built in or loaded; if not, the next command fails with the cause
  ip netns add "$netns"
  ip link add cf-host type veth peer name cf-node netns "$netns"
  ip address add "$host_address/30" dev cf-host
  ip link set cf-host up
  in_netns ip link set lo up
  in_netns ip address add "$node_address/30" dev cf-node
  in_netns ip link set cf-node up
  in_netns ip route add default via "$host_address"
  in_netns sysctl -qw net.ipv4.ip_forward=1
  local range
  for range in "$pod_range" "$service_range"; do
    ip route add "$range" via "$node_address" || die "the host already has a route for $range, which the dev cluster needs: $(ip route show "$range")"
  done
  enable_pod_egress
}

# The host's iptables rules, one per line: table, chain, match and target.
host_rules() {
  printf '%s\n' \
    "nat POSTROUTING -s $pod_range ! -o cf-host -j MASQUERADE" \
    "nat POSTROUTING -s $node_address ! -o cf-host -j MASQUERADE" \
    "filter FORWARD -i cf-host -j ACCEPT" \
    "filter FORWARD -o cf-host -j ACCEPT"
}

enable_pod_egress() {
  local table chain rule
  cat /proc/sys/net/ipv4/ip_forward >"$state/ip_forward"
  sysctl -qw net.ipv4.ip_forward=1 || warn "cannot enable forwarding, so pods cannot reach other machines"
  while read -r table chain rule; do
    # shellcheck disable=SC2086 # a rule is several words
    iptables -w -t "$table" -I "$chain" -m comment --comment "$rule_comment" $rule || warn "iptables rejected the rule $table $chain $rule, so pods cannot reach other machines"
  done < <(host_rules)
}

# The host's real resolvers, because a loopback address (systemd-resolved) would be the pod's own loopback.
pod_resolv_conf() {
  local source=/etc/resolv.conf
  if grep -qE '^nameserver 127\.' "$source" && [ -e /run/systemd/resolve/resolv.conf ]; then source=/run/systemd/resolve/resolv.conf; fi
  grep -vE '^nameserver (127\.|::1)' "$source" || true
}

make_certificates() {
  (
    cd "$state/pki" || exit
    umask 077
    new_key ca && openssl req -x509 -new -key ca.key -days 365 -out ca.crt -subj /CN=camofleet-dev-ca
    certificate apiserver /CN=kube-apiserver "DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:${service_range%.*}.1,IP:$node_address"
    certificate kubelet "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$node_address"
    certificate admin /O=system:masters/CN=admin
    certificate controller-manager /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    certificate proxy /CN=system:kube-proxy
    openssl genrsa -out service-accounts.key 2048 2>/dev/null
    openssl rsa -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
  )
  local user
  for user in admin kubelet controller-manager scheduler proxy; do kubeconfig "$user" >"$state/$user.kubeconfig"; done
  chmod 600 "$state"/*.kubeconfig
}

new_key() { openssl ecparam -genkey -name prime256v1 -noout -out "$1.key"; }

# certificate NAME SUBJECT [ALTERNATIVE-NAMES]
certificate() {
  new_key "$1"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" -extfile <(
    echo extendedKeyUsage=clientAuth,serverAuth
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  ) 2>/dev/null
}

kubeconfig() {
  local pki=$state/pki
  cat <<YAML
apiVersion: v1
kind: Config
clusters: [{name: camofleet-dev, cluster: {server: "https://$node_address:6443", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]
contexts: [{name: camofleet-dev, context: {cluster: camofleet-dev, user: $1, namespace: $release_namespace}}]
current-context: camofleet-dev
YAML
}

# daemon NAME COMMAND…: starts a process that survives this script and its terminal.
daemon() {
  local name=$1
  shift
  setsid nsenter --net="/run/netns/$netns" "$@" >"$state/log/$name.log" 2>&1 </dev/null {cluster_lock}>&- 7>&- 8>&- 9>&- &
  echo $! >"$state/$name.pid"
}

# The kernel may have reused a pid. The daemon is the process with that pid in the cluster's network namespace.
daemon_is_alive() {
  local pid ours
  pid=$(cat "$state/$1.pid" 2>/dev/null) || return 1
  ours=$(stat -Lc %i "/run/netns/$netns" 2>/dev/null) || return 1
  [ "$(readlink "/proc/$pid/ns/net" 2>/dev/null)" = "net:[$ours]" ]
}

start_control_plane() {
  local pki=$state/pki
  # no-fsync, because the data of a dev cluster does not have to survive a power failure.
  daemon etcd "$kubernetes_bin/etcd" --data-dir "$data/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  # InternalIP, because otherwise logs and exec would resolve the node's name by DNS.
  daemon apiserver "$kubernetes_bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address="$node_address" \
    --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/service-accounts.pub" --service-account-signing-key-file="$pki/service-accounts.key" \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" --kubelet-preferred-address-types=InternalIP \
    --service-cluster-ip-range="$service_range" --authorization-mode=Node,RBAC --allow-privileged=true
  start_containerd
  wait_for 60 "the API server (see $state/log/apiserver.log)" apiserver_is_ready
  daemon controller-manager "$kubernetes_bin/kube-controller-manager" --kubeconfig="$state/controller-manager.kubeconfig" --leader-elect=false \
    --use-service-account-credentials=true --service-account-private-key-file="$pki/service-accounts.key" --root-ca-file="$pki/ca.crt" \
    --allocate-node-cidrs=true --cluster-cidr="$pod_range" --flex-volume-plugin-dir="$data/kubelet/volume-plugins"
  daemon scheduler "$kubernetes_bin/kube-scheduler" --kubeconfig="$state/scheduler.kubeconfig" --leader-elect=false
}

apiserver_is_ready() { [ "$(k --request-timeout=5s get --raw /readyz)" = ok ]; }

start_containerd() {
  # restrict_oom_score_adj and oom_score 0, because machines without CAP_SYS_RESOURCE cannot lower OOM scores.
  # netns_mounts_under_state_dir, so that the pods' network namespaces can be attributed to this cluster.
  cat >"$state/containerd.toml" <<TOML
version = 2
root = "$image_store"
state = "$state/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "$state/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$pause_image"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "$state/runc"
TOML
  cat >"$state/cni/10-camofleet.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "camofleet", "plugins": [
  {"type": "bridge", "bridge": "cf-pods", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "${pod_range%.*.*}.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$state/cni/addresses"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  daemon containerd containerd --config "$state/containerd.toml"
  wait_for 30 "containerd (see $state/log/containerd.log)" cri version
  # The image store is kept between clusters and may list containers of the previous one.
  local stale
  stale=$(cri containers ls -q)
  [ -z "$stale" ] || xargs -r -n16 ctr --address "$state/containerd/containerd.sock" --namespace k8s.io containers rm <<<"$stale"
}

start_node() {
  pod_resolv_conf >"$state/resolv.conf"
  cat >"$state/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: $state/pki/ca.crt}, webhook: {enabled: true}}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/kubelet.crt
tlsPrivateKeyFile: $state/pki/kubelet.key
containerRuntimeEndpoint: unix://$state/containerd/containerd.sock
resolvConf: $state/resolv.conf
podLogsDir: $data/pod-logs
volumePluginDir: $data/kubelet/volume-plugins
cgroupDriver: cgroupfs
cgroupRoot: /camofleet # contains the processes of all pods
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: $(min 20000 "$(ulimit -Hn)")
maxPods: 250
imageGCHighThresholdPercent: 100 # never collected, because no registry has the images
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
YAML
  # conntrack values of 0 leave the machine's limits unchanged. masqueradeAll, because without br_netfilter a response
  # from one pod to another would cross the bridge without translation back to the Service's address.
  cat >"$state/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
iptables: {masqueradeAll: true}
hostnameOverride: $node
clusterCIDR: $pod_range
clientConnection: {kubeconfig: $state/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
YAML
  make_cgroups
  import_image "$pause_image"
  daemon kubelet "$kubernetes_bin/kubelet" --config="$state/kubelet.yaml" --kubeconfig="$state/kubelet.kubeconfig" \
    --root-dir="$data/kubelet" --hostname-override="$node" --node-ip="$node_address"
  daemon proxy "$kubernetes_bin/kube-proxy" --config="$state/proxy.yaml"
  wait_for 90 "the node to be Ready (see $state/log/kubelet.log)" node_is_ready
  # The API server rejects pods until it exists.
  wait_for 30 "the default ServiceAccount" k -n default get serviceaccount default
}

min() { if [ "$1" -lt "$2" ] 2>/dev/null; then echo "$1"; elif [ "$2" = unlimited ]; then echo "$1"; else echo "$2"; fi; }

# cgroup v1 has one folder per controller, v2 a single one. The v2 branch is untested, for lack of a machine with v2.
cgroup_folders() {
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    echo /sys/fs/cgroup/camofleet
  else
    local mount
    for mount in /sys/fs/cgroup/*/; do [ "$mount" = /sys/fs/cgroup/unified/ ] || echo "${mount}camofleet"; done
  fi
}

make_cgroups() {
  local folder file
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    for file in cpuset cpu io memory pids hugetlb; do
      ! grep -qw "$file" /sys/fs/cgroup/cgroup.controllers || echo "+$file" >/sys/fs/cgroup/cgroup.subtree_control
    done
  fi
  for folder in $(cgroup_folders); do
    mkdir -p "$folder"
    # v1: a new cpuset is empty, and no process can join it.
    for file in cpuset.cpus cpuset.mems; do
      [ ! -e "$folder/$file" ] || [ ! -e "${folder%/*}/$file" ] || cat "${folder%/*}/$file" >"$folder/$file"
    done
  done
}
