# Installs the chart and the examples on the dev cluster, and drives a session with a client.
# shellcheck shell=bash

gateway_port=30080
gateway_url=http://$node_address:$gateway_port

install_chart() {
  k get namespace "$release_namespace" >/dev/null 2>&1 || k create namespace "$release_namespace" >/dev/null
  # Runners are in this namespace too, so the pods that the operator creates must meet the restricted standard.
  k label --overwrite namespace "$release_namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null
  delete_pending_releases
  local arguments
  mapfile -t arguments < <(chart_arguments)
  # take-ownership, for CRDs that were applied without Helm.
  quietly "$helm" --kubeconfig "$admin_kubeconfig" upgrade --install camo-fleet "$repo/charts/camo-fleet" --namespace "$release_namespace" --history-max 3 --take-ownership "${arguments[@]}"
  local component
  for component in operator gateway; do
    note "waiting for the new pods of $component"
    k -n "$release_namespace" rollout status "deployment/camofleet-$component" --timeout=120s >/dev/null || { dump_pods; return 1; }
  done
}

# The Helm arguments for the dev cluster, one per line.
chart_arguments() {
  printf '%s\n' \
    --set publicUrl="$gateway_url" --set pools.headless=null --set pools.live=null --set gateway.service.type=NodePort --set gateway.service.nodePort="$gateway_port" \
    --set operator.image="${image_of[operator]}" --set gateway.image="${image_of[gateway]}" --set runner.image="${image_of[runner]}"
}

# Deletes pending releases of an interrupted Helm run, because Helm refuses to upgrade while one exists.
delete_pending_releases() {
  local pending
  for pending in $(k -n "$release_namespace" get secrets -l owner=helm,name=camo-fleet -o 'jsonpath={range .items[*]}{.metadata.name}={.metadata.labels.status}{"\n"}{end}' | sed -n 's/=pending-.*//p'); do
    k -n "$release_namespace" delete secret "$pending" >/dev/null
  done
}

write_access_files() {
  local token
  install -d -m 700 "$dot_dev"
  install -m 600 "$admin_kubeconfig" "$dot_dev/kubeconfig"
  echo "$gateway_url" >"$dot_dev/gateway.url"
  wait_for 60 "the gateway's tokens (Secret camofleet-tokens)" admin_token
  token=$(admin_token)
  (umask 077; echo "$token" >"$dot_dev/token")
}

admin_token() {
  k -n "$release_namespace" get secret camofleet-tokens -o 'jsonpath={.data.admin}' | base64 -d | head -n1 | grep .
}

apply_examples() {
  # The demo session ends after a day.
  if [ "$(session_condition demo Finished)" = True ]; then k -n "$release_namespace" delete browsersession demo --wait >/dev/null; fi
  k -n "$release_namespace" apply -f "$repo/examples/pools.yaml" -f "$repo/examples/demo.yaml"
}

session_condition() {
  k -n "$release_namespace" get browsersession "$1" --ignore-not-found -o "jsonpath={.status.conditions[?(@.type=='$2')].status}" 2>/dev/null
}

wait_for_session() {
  local name=$1 deadline=$((SECONDS + 180))
  note "waiting for session $name to be Ready"
  until [ "$(session_condition "$name" Ready)" = True ]; do
    if [ "$SECONDS" -ge "$deadline" ] || [ "$(session_condition "$name" Finished)" = True ]; then
      say "error: session $name is not Ready"
      k -n "$release_namespace" get browsersession "$name" -o yaml
      dump_pods
      return 1
    fi
    sleep 0.2
  done
}

# Prints objects, events and logs for the analysis of a failed start.
dump_pods() {
  local component
  {
    k -n "$release_namespace" get pods,browsersessions,workerpools -o wide
    k -n "$release_namespace" get events --sort-by=.lastTimestamp | tail -n 25
    for component in "${components[@]}"; do
      say "--- log of $component"
      k -n "$release_namespace" logs -l "app.kubernetes.io/name=camofleet-$component" --tail=40 --prefix
    done
  } 2>&1 | sed 's/^/    /' >&2 || true
}

install_client() {
  use_node
  node_packages "$repo/examples"
}

session_endpoint() { k -n "$release_namespace" get browsersession "$1" -o 'jsonpath={.status.wsEndpoint}'; }

drive_demo() {
  local endpoint
  endpoint=$(session_endpoint demo)
  node "$repo/examples/drive.mjs" "$endpoint" "$(cat "$dot_dev/token")" "$dot_dev/demo.png" | sed 's/^/    /'
}

free_slots() {
  k -n "$release_namespace" get workerpools -o jsonpath='{range .items[*]}{.status.slots.total} {.status.slots.used}{"\n"}{end}' |
    awk '{ free += $1 - $2 } END { print free + 0 }'
}

watch_demo() {
  # The session that opens the live view needs a slot, and on a cluster in use other sessions can have all of them.
  if [ "$(free_slots)" -le 0 ] && k -n "$release_namespace" get browsersessions -o name | grep -qv '/demo$'; then
    say "    skipped: other sessions take all slots"
    return
  fi
  node "$repo/examples/watch.mjs" "$gateway_url" "$(cat "$dot_dev/token")" demo "$dot_dev/live-view.png" | sed 's/^/    /'
}
