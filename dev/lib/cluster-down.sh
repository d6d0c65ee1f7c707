# Removes everything that cluster.sh and the pods created, also after an interruption at any point, and checks that
# nothing remains. It identifies the cluster's resources by network namespace, cgroup and folders, never by process name
# alone.
# shellcheck shell=bash

cluster_down() {
  need_root
  allow_services
  lock_cluster
  remove_cluster
  local left
  left=$(cluster_leftovers)
  unlock_cluster
  [ -z "$left" ] || die "the cluster left behind:
$left"
}

remove_cluster() {
  local own_data sockets
  own_data=$(readlink -f "$state/data" 2>/dev/null) || own_data=
  sockets=$(shim_sockets)
  stop_processes
  # shellcheck disable=SC2086 # a list
  rm -f $sockets && remove_if_empty /run/containerd/s /run/containerd
  unmount_below "$state" "$data" "$cache/buildah" ${own_data:+"$own_data"} # buildah: mounts of an interrupted build
  remove_network
  remove_cgroups
  remove_fixed_files "$data" ${own_data:+"$own_data"}
  rm -rf --one-file-system "$state" "$data" ${own_data:+"$own_data"}
}

# All processes are killed, because the cluster's data is deleted anyway. Only containerd is terminated, after it has
# removed its tasks (mounts, shims and their sockets), because its image store is kept.
stop_processes() {
  local pid
  if daemon_is_alive kubelet; then kill -KILL "$(cat "$state/kubelet.pid")" || true; fi # first, because it restarts containers
  if daemon_is_alive containerd; then
    pid=$(cat "$state/containerd.pid")
    { timeout 30 ctr --address "$state/containerd/containerd.sock" --namespace k8s.io tasks ls -q |
      timeout 30 xargs -r -n4 -P4 ctr --address "$state/containerd/containerd.sock" --namespace k8s.io tasks rm --force; } >/dev/null 2>&1 || true
    kill -TERM "$pid" || true
    wait_for 10 "containerd to exit" process_is_gone "$pid" || true
  fi
  wait_for 20 "the cluster's processes to exit" kill_processes
}

# Succeeds when no process is left. A killed process may have started another one, so the caller repeats this.
kill_processes() {
  local pids
  pids=$(cluster_processes)
  # shellcheck disable=SC2086 # a list
  [ -z "$pids" ] || { kill -KILL $pids 2>/dev/null; return 1; }
}

process_is_gone() { ! readlink "/proc/$1/ns/net"; } # a zombie has no namespaces

# Processes in the cluster's cgroups (pods) and network namespace (daemons, shims), except this script.
cluster_processes() {
  local folder inode='' process
  {
    # shellcheck disable=SC2046
    find /nowhere $(cluster_cgroups) -name cgroup.procs -exec cat {} + 2>/dev/null || true
    # If ip was interrupted, the file exists without the mount. It is then no namespace and has no processes.
    [ ! -e "/run/netns/$netns" ] || inode=$(stat -Lc %i "/run/netns/$netns")
    if [ -n "$inode" ]; then
      for process in /proc/[0-9]*; do
        [ "$(readlink "$process/ns/net" 2>/dev/null)" != "net:[$inode]" ] || echo "${process#/proc/}"
      done
    fi
  } | sort -un | grep -vx -e "$$" -e "$BASHPID" -e 0 || true
}

# A killed shim leaves its socket in a folder that all containerds of a machine share. The cluster's sockets are those
# in its network namespace, to which Unix sockets belong too.
shim_sockets() {
  [ ! -e "/run/netns/$netns" ] || in_netns cat /proc/net/unix 2>/dev/null | grep -oE '/run/containerd/s/[0-9a-f]+$' | sort -u || true
}

# On a host with hybrid cgroups, runc also creates one in the v2 hierarchy.
cluster_cgroups() {
  local folder
  for folder in $(cgroup_folders) /sys/fs/cgroup/unified/camofleet; do
    if [ -d "$folder" ]; then echo "$folder"; fi
  done
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
  ip link del cf-host 2>/dev/null || true # disappears with its peer, but not immediately
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
  for folder in $(cluster_cgroups); do find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
}

# Removes files that kubelet and CNI keep at fixed paths.
remove_fixed_files() {
  local folder sandbox
  for folder in "$@"; do
    [ ! -d /var/log/containers ] || find /var/log/containers -lname "$folder/*" -delete
  done
  for sandbox in "$state"/containerd/io.containerd.grpc.v1.cri/sandboxes/*/; do
    sandbox=$(basename "$sandbox")
    rm -f "/var/lib/cni/results/camofleet-$sandbox-eth0" "/var/lib/cni/results/cni-loopback-$sandbox-lo"
  done
  # After a reboot the sandboxes are unknown. Only this cluster has a network named camofleet.
  [ ! -d /var/lib/cni/results ] || find /var/lib/cni/results -name 'camofleet-*' -delete
  # The cluster's kubelet has exited by now. If another one runs, the socket is its own.
  pgrep -x kubelet >/dev/null || rm -f /var/lib/kubelet/device-plugins/kubelet.sock
  remove_if_empty /var/lib/kubelet/device-plugins /var/lib/kubelet /var/lib/cni/results /var/lib/cni /var/log/containers
  # ip mounted this folder for the first namespace.
  if mountpoint -q /run/netns && [ -z "$(ls /run/netns)" ]; then umount /run/netns; fi
}

remove_if_empty() { rmdir "$@" 2>/dev/null || true; }

# Prints one line for each resource that remains.
cluster_leftovers() {
  local pid folder
  for pid in $(cluster_processes); do echo "process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"; done
  mounts_below "$state" "$data" "$cache/buildah" | sed 's/^/mount /'
  [ ! -e "/run/netns/$netns" ] || echo "network namespace $netns"
  { ip -o link show cf-host 2>/dev/null || true; } | sed 's/^/link /'
  ip route show | grep -F "$node_address" | sed 's/^/route /' || true
  if command -v iptables-save >/dev/null; then { iptables-save 2>/dev/null | grep -F "$rule_comment" | sed 's/^/iptables rule /'; } || true; fi
  for folder in $(cluster_cgroups); do echo "cgroup $folder"; done
  for folder in "$state" "$data"; do [ ! -e "$folder" ] || echo "folder $folder"; done
  [ ! -d /var/log/containers ] || find /var/log/containers -lname "$data/*" -printf 'log link %p\n'
  find /var/lib/cni/results -name 'camofleet-*' -printf 'CNI result %p\n' 2>/dev/null || true
}

purge_caches() {
  unmount_below "$cache"
  rm -rf --one-file-system "$cache"
}
