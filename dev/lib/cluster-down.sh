# Takes away everything that cluster.sh and the pods made, also after an interruption at any point, and checks that
# nothing is left. What is ours is told by the network namespace, the cgroup and the folders, never by a name alone.
# shellcheck shell=bash

cluster_down() {
  need_root
  lock_cluster
  cluster_sweep
  local left
  left=$(cluster_leftovers)
  unlock_cluster
  [ -z "$left" ] || die "the cluster left behind:
$left"
}

cluster_sweep() {
  local own_data
  own_data=$(readlink -f "$state/data" 2>/dev/null) || own_data=
  stop_processes
  remove_sockets_of_shims
  unmount_below "$state" "$data" ${own_data:+"$own_data"}
  remove_network
  remove_cgroups
  remove_logs_and_results "$data" ${own_data:+"$own_data"}
  rm -rf "$state" "$data" ${own_data:+"$own_data"}
}

stop_processes() {
  local pids
  # kubelet first: it would start again what is stopped. Then containers while containerd can still tidy up after them.
  if daemon_is_alive kubelet; then kill -KILL "$(cat "$state/kubelet.pid")"; fi
  if daemon_is_alive containerd; then
    timeout 30 ctr --address "$state/containerd/containerd.sock" --namespace k8s.io tasks ls -q 2>/dev/null |
      timeout 30 xargs -r -n1 -P8 ctr --address "$state/containerd/containerd.sock" --namespace k8s.io tasks rm --force >/dev/null 2>&1 || true
  fi
  pids=$(our_processes)
  # shellcheck disable=SC2086 # a list
  [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
  if ! wait_for 5 "the cluster's processes to end" no_process_is_ours 2>/dev/null; then
    pids=$(our_processes)
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
    wait_for 10 "the cluster's processes to die" no_process_is_ours
  fi
}

no_process_is_ours() { [ -z "$(our_processes)" ]; }

# Those in our cgroups (pods) and in our network namespace (daemons, shims), but not this script.
our_processes() {
  local folder inode='' process
  {
    for folder in $(cgroup_folders); do
      [ ! -d "$folder" ] || find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done
    # the file may be there without the mount, when ip was interrupted: then it is no namespace and has no process
    [ ! -e "/run/netns/$netns" ] || inode=$(stat -Lc %i "/run/netns/$netns")
    if [ -n "$inode" ]; then
      for process in /proc/[0-9]*; do
        [ "$(readlink "$process/ns/net" 2>/dev/null)" != "net:[$inode]" ] || echo "${process#/proc/}"
      done
    fi
  } | sort -un | grep -vx -e "$$" -e "$BASHPID" -e 0 || true
}

# A shim that was killed leaves its socket in a folder that all containerds of a machine share.
remove_sockets_of_shims() {
  local address
  for address in "$state"/containerd/io.containerd.runtime.v2.task/k8s.io/*/address; do
    [ ! -e "$address" ] || rm -f "$(sed 's|^unix://||' "$address")"
  done
  rmdir /run/containerd/s /run/containerd 2>/dev/null || true
}

mounts_below() {
  local folder
  for folder in "$@"; do awk -v below="$folder/" 'index($2, below) == 1 { print $2 }' /proc/mounts; done | sort -ru
}

unmount_below() {
  local mount
  while read -r mount; do umount -l "$mount" || true; done < <(mounts_below "$@")
}

remove_network() {
  local range table chain rule
  ip netns del "$netns" 2>/dev/null || rm -f "/run/netns/$netns"
  ip link del cf-host 2>/dev/null || true # goes with its peer, but not at once
  for range in "$pod_range" "$service_range"; do ip route del "$range" via "$node_address" 2>/dev/null || true; done
  if command -v iptables >/dev/null; then
    while read -r table chain rule; do
      # shellcheck disable=SC2086
      while iptables -w -t "$table" -D "$chain" -m comment --comment "$rule_comment" $rule 2>/dev/null; do :; done
    done < <(host_rules)
  fi
  if [ -e "$state/ip_forward" ]; then sysctl -qw "net.ipv4.ip_forward=$(cat "$state/ip_forward")" || true; fi
}

remove_cgroups() {
  local folder
  for folder in $(cgroup_folders); do
    [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

# What kubelet and CNI keep at fixed places.
remove_logs_and_results() {
  local folder
  for folder in "$@"; do
    [ ! -d /var/log/containers ] || find /var/log/containers -lname "$folder/*" -delete
  done
  rmdir /var/log/containers 2>/dev/null || true
  rm -f /var/lib/cni/results/camofleet-*
  rmdir /var/lib/cni/results /var/lib/cni 2>/dev/null || true
}

# One line for each thing that is still there.
cluster_leftovers() {
  local pid folder
  for pid in $(our_processes); do echo "process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"; done
  mounts_below "$state" "$data" | sed 's/^/mount /'
  [ ! -e "/run/netns/$netns" ] || echo "network namespace $netns"
  { ip -o link show cf-host 2>/dev/null || true; } | sed 's/^/link /'
  ip route show | grep -F "$node_address" | sed 's/^/route /' || true
  if command -v iptables-save >/dev/null; then { iptables-save 2>/dev/null | grep -F "$rule_comment" | sed 's/^/iptables rule /'; } || true; fi
  for folder in $(cgroup_folders); do [ ! -d "$folder" ] || echo "cgroup $folder"; done
  for folder in "$state" "$data"; do [ ! -e "$folder" ] || echo "folder $folder"; done
  [ ! -d /var/log/containers ] || find /var/log/containers -lname "$data/*" -printf 'log link %p\n'
  find /var/lib/cni/results -name 'camofleet-*' -printf 'CNI result %p\n' 2>/dev/null || true
}

purge_caches() {
  unmount_below "$cache" # buildah keeps a mount of its storage
  rm -rf "$cache"
}
