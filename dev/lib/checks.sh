# The parts of dev/test. Each runs in a shell of its own, and exits 0 (passed), 1 (failed) or $skipped with the cause as
# its last line.
# shellcheck shell=bash

skipped=75
skip() { say "$*"; exit "$skipped"; }

# Lints and layout differ between compilers: only the pinned one judges.
need_pinned_rust() {
  local pinned have
  pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$repo/rust-toolchain.toml")
  have=$(cd "$repo" && rustc --version | awk '{print $2}')
  [ "$have" = "$pinned" ] || skip "asks for Rust $pinned, this is $have"
}

check_format() {
  need_pinned_rust
  cargo fmt --all --check
}

# SC1090, SC1091, SC2034, SC2154: the files of lib/ read each other's variables.
check_shell() {
  local commands command summary
  apt_install shellcheck
  mapfile -t commands < <(find dev -maxdepth 1 -type f)
  shellcheck --exclude=SC1090,SC1091,SC2034,SC2154 --severity=style "${commands[@]}" dev/lib/*.sh .ci/run
  for command in "${commands[@]}"; do
    summary=$(summary_of "$command")
    # dev/help prints it
    [[ $summary == *. && ${#summary} -le 100 ]] || { say "$command: the second line must say what it does, in a sentence of at most 100 characters"; return 1; }
  done
}

check_clippy() {
  need_pinned_rust
  workspace_cargo clippy --locked --workspace --all-targets -- -D warnings
  workspace_cargo clippy --locked --workspace --test e2e --test upgrade --test flood --test traces --test failures -- -D warnings
}

# The lock file must list what is bought in, under licences that are allowed, and one TLS provider.
check_licences() {
  cargo_deny --offline check bans licenses sources
}

check_advisories() {
  local log status=0
  log=$(mktemp)
  cargo_deny check advisories 2>&1 | tee "$log" || status=$?
  if [ "$status" != 0 ] && grep -q 'failed to fetch advisory database' "$log"; then
    skip "the advisory database cannot be reached, so nothing was checked"
  fi
  return "$status"
}

cargo_deny() {
  local tool=$cache/cargo-deny-$cargo_deny_version
  once "$tool" install_cargo_deny
  cargo fetch --locked --quiet
  "$tool/bin/cargo-deny" --workspace "$@"
}

# Outside the checkout, so that its pinned compiler does not matter; its objects are not worth keeping. Not optimised: that
# takes minutes more, and it runs for seconds.
install_cargo_deny() {
  (cd / && CARGO_TARGET_DIR=$1.target CARGO_PROFILE_DEV_DEBUG=0 CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 quietly cargo install --debug --locked --version "$cargo_deny_version" --root "$1" cargo-deny)
  rm -rf "$1.target"
}

# What the runner's tests start on this machine: the programs of the runner's image.
use_browsers() {
  apt_install firefox-esr tigervnc-standalone-server fonts-liberation fonts-dejavu-core
  use_node
  node_packages "$repo/runner/launcher"
}

# All programs and tests are compiled, so that parts that run beside each other do not wait for cargo.
check_build() {
  export CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100
  workspace_cargo build --locked --workspace "${components[@]/#/--bin=camofleet-}"
  workspace_cargo test --locked --workspace --no-run
  workspace_cargo test --locked --workspace --no-run --test traces --test failures --test e2e
}

# The dev cluster, for the parts that need it.
check_up() { "$repo/dev/up"; }

check_unit() {
  use_browsers
  workspace_cargo test --locked --workspace
}

# What a real operator tells a collector of traces, and of metrics.
check_traces() {
  build_kubernetes
  workspace_cargo test --locked --workspace --test traces
}

# The operator on an API server while things fail. They wait more than they work, so five run at once.
check_failures() {
  apt_install faketime
  build_kubernetes
  workspace_cargo test --locked --workspace --test failures -- --test-threads 5
}

# What shows the pages to the tests of the UI.
use_ui() {
  apt_install chromium firefox-esr tigervnc-standalone-server xterm fonts-dejavu-core
  use_node
  node_packages "$repo/ui"
}

# Types, lint, format, and the pages in Debian's Chromium and Firefox before a real display.
check_ui() {
  use_ui
  npm --prefix "$repo/ui" run check
  npm --prefix "$repo/ui" test
}

# The health scripts for Argo CD, run as it runs them.
check_argo() {
  use_go
  # -count=1: Go does not see that a file outside its module has changed, and would repeat what it found before
  go -C dev/kubernetes/argo-health test -count=1 ./...
}

# Every template of the chart is rendered with these.
all_values=(
  --set "publicUrl=https://fleet.example.test" --set gateway.service.type=NodePort --set gateway.service.nodePort=30080
  --set "gateway.sessionNamespaces={default}" --set "gateway.trustedProxies={10.0.0.0/8,fd00::/8}" --set "networkPolicies.adminPeers[0].namespaceSelector.matchLabels.team=sre"
  --set "networkPolicies.adminPeers[1].ipBlock.cidr=192.0.2.0/24" --set "networkPolicies.adminPeers[1].ipBlock.except={192.0.2.128/25}" --set "networkPolicies.adminPeers[2].ipBlock.cidr=2001:db8::/32"
  --set operator.replicas=2 --set "image.pullSecrets={registry}" --set "networkPolicies.poolNamespaces={default}"
  --set ingress.enabled=true --set ingress.className=nginx --set ingress.tlsSecret=fleet-tls
  --set httpRoute.enabled=true --set "httpRoute.parentRefs[0].name=shared" --set serviceMonitor.enabled=true
  --set hooks.enabled=true --set pools.headless.allowedNamespaces.from=All
  --set prometheusRule.enabled=true --set tracing.otlpEndpoint=http://otel-collector.example.test:4318 --set tracing.sampleRatio=0.1
)
wrong_values=(
  publicUrl=ftp://x publicUrl=http://x/ image.pullPolicy=Sometimes operator.replcas=2 operator.replicas=-1 gateway.service.type=Magic
  gateway.service.port=0 "gateway.sessionNamespaces={no such}" "gateway.trustedProxies={10.0.0.1}" "gateway.trustedProxies={10.0.0.0/33}"
  "gateway.trustedProxies={10.0.0.256/32}" "gateway.trustedProxies={999.0.0.0/8}" "gateway.trustedProxies={010.0.0.0/8}" "gateway.trustedProxies={10.0.0/24}" "gateway.trustedProxies={fd00::/129}" "gateway.trustedProxies={fd000::/16}" "gateway.trustedProxies={::ffff:10.0.0.256/128}"
  "networkPolicies.adminPeers[0].ports=8081" networkPolicies.adminPeers=everybody "networkPolicies.adminPeers[0].ipBlock.cidr=192.0.2.1" "networkPolicies.adminPeers[0].ipBlock.except={192.0.2.0/25}"
  "networkPolicies.adminPeers[0].ipBlock.cidr=192.0.2.0/24,networkPolicies.adminPeers[0].ipBlock.except={192.0.2.0/33}" "networkPolicies.adminPeers[0].ipBlock.cidr=192.0.2.0/24,networkPolicies.adminPeers[0].podSelector.matchLabels.a=b"
  pools.Bad_Name.replicas=1 pools.headless=2 uninstall.drainTimeoutSeconds=soon
  "networkPolicies.runnersMayNotReach={everything}" serviceMonitor.interval=often httpRoute.parentRefs=shared
  tracing.otlpEndpoint=https://x tracing.otlpEndpoint=http://user@x tracing.sampleRatio=2 prometheusRule.enabled=maybe
  hooks.enabled=sometimes hooks.enabled=1 uninstall.deleteAllPools=mine admissionPolicies.enabled=maybe
  "publicUrl=http://a b" gateway.service.nodePort=30080 httpRoute.enabled=true
)

check_chart() {
  local folder crds wrong file
  folder=$(mktemp -d)
  foreign=()
  # shellcheck disable=SC2016 # looked at when it is over
  trap 'rm -rf "'"$folder"'"; if [ "${#foreign[@]}" -gt 0 ]; then k delete "${foreign[@]/#/--filename=}"; fi' EXIT
  "$helm" lint --strict charts/camo-fleet
  "$helm" lint --strict charts/camo-fleet "${all_values[@]}"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet >"$folder/default.yaml"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet "${all_values[@]}" >"$folder/first.yaml"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet "${all_values[@]}" >"$folder/second.yaml"
  say "the same values give the same bytes:"
  cmp "$folder/first.yaml" "$folder/second.yaml"
  say "every CRD is in the chart, and is kept:"
  crds=$(find crds/yaml -name '*.yaml' | wc -l)
  [ "$crds" -gt 0 ]
  [ "$(grep -c '^kind: CustomResourceDefinition' "$folder/default.yaml")" = "$crds" ]
  [ "$(grep -c 'helm.sh/resource-policy: keep' "$folder/default.yaml")" = "$crds" ]
  say "hooks are rendered only where Helm runs them, or on demand:"
  [ "$(grep -c 'helm.sh/hook:' "$folder/default.yaml")" = 0 ]
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet --set hooks.enabled=false >"$folder/none.yaml"
  cmp "$folder/default.yaml" "$folder/none.yaml"
  expect_jobs "$folder/first.yaml" abandon-pools apply-pools delete-pools
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet "${all_values[@]}" --set uninstall.deleteAllPools=true >"$folder/everything.yaml"
  expect_jobs "$folder/everything.yaml" apply-pools delete-pools
  "$helm" --kubeconfig "$admin_kubeconfig" template camo-fleet charts/camo-fleet -n camo-fleet --dry-run=server >"$folder/found.yaml"
  expect_jobs "$folder/found.yaml" abandon-pools apply-pools delete-pools
  say "the Job that deletes pools reaches sessions of all namespaces only when a pool is open to other namespaces:"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet --set hooks.enabled=true --set pools.headless.allowedNamespaces.from=Same >"$folder/own.yaml"
  [ "$(cluster_roles "$folder/own.yaml" | grep -c delete-pools)" = 0 ]
  [ "$(cluster_roles "$folder/first.yaml" | grep -c delete-pools)" = 1 ]
  say "wrong values are refused:"
  for wrong in "${wrong_values[@]}"; do
    if "$helm" template camo-fleet charts/camo-fleet --set "$wrong" >/dev/null 2>"$folder/refusal"; then say "accepted: $wrong"; return 1; fi
    grep -q "values don't meet the specifications" "$folder/refusal" || { cat "$folder/refusal"; return 1; }
  done
  say "install.yaml is what the chart gives:"
  dev/install-yaml | cmp - charts/install.yaml
  say "the API server takes every object:"
  for file in $(foreign_crds); do
    # one that somebody else has made stays as it is
    if k create -f "$file"; then foreign+=("$file"); fi
    # kubectl refuses to wait for conditions of an object that has none yet
    wait_for 60 "the kind in $file to have conditions" has_conditions "$file"
    k wait --for=condition=Established --timeout=60s -f "$file"
  done
  k apply --server-side --force-conflicts --dry-run=server --validate=strict -f "$folder/default.yaml" -f "$folder/first.yaml" -f "$folder/everything.yaml"
}

# The hook Jobs in a file of rendered objects are those of these names, in this order.
expect_jobs() {
  local file=$1 found
  shift
  found=$(grep -A 2 '^kind: Job$' "$file" | sed -n 's/^  name: camofleet-//p' | sort | tr '\n' ' ')
  [ "$found" = "$* " ] || { say "$file has the Jobs $found, and should have $*"; return 1; }
}

# The names of the ClusterRoles in a file of rendered objects.
cluster_roles() { grep -A 2 '^kind: ClusterRole$' "$1" | sed -n 's/^  name: //p'; }

has_conditions() { [ -n "$(k get -f "$1" -o 'jsonpath={.status.conditions}')" ]; }

# Files with the kinds of others that the chart has objects of.
foreign_crds() {
  use_go
  local kind module=(go -C "$repo/dev/kubernetes/foreign-crds" list -m -f '{{.Dir}}')
  quietly go -C "$repo/dev/kubernetes/foreign-crds" mod download
  echo "$("${module[@]}" sigs.k8s.io/gateway-api)/config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
  for kind in servicemonitors prometheusrules; do
    echo "$("${module[@]}" github.com/prometheus-operator/prometheus-operator)/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml"
  done
}

# Ten thousand sessions come and go while something fails every few seconds, and none is lost, doubled or leaked.
check_chaos() { measure chaos; }

# Claims of one namespace while a tenant of another attacks the operator: what must hold is said in the scenario.
check_hostile() {
  need_root
  measure hostile
}

# A scenario of bench/, which fails when something does not hold that must.
measure() {
  build_kubernetes
  workspace_cargo run --locked --release --package camofleet-bench -- "$@"
}

# Silent connections to a runner for two minutes.
check_flood() {
  use_node
  KUBECONFIG=$dot_dev/kubeconfig workspace_cargo test --locked --workspace --test flood -- --nocapture
}

# An upgrade from the version before and the rollback to it, with sessions at work. The dev cluster is left with the current version.
check_upgrade() {
  has_previous || skip "this clone has no commit $previous_commit to upgrade from: git fetch --unshallow"
  use_node
  build_images # they are there: dev/up has made them
  chart_arguments >"$dot_dev/upgrade-arguments"
  trap restore_release EXIT
  with_previous install_fresh
  KUBECONFIG=$dot_dev/kubeconfig CAMOFLEET_UPGRADE_ARGUMENTS=$dot_dev/upgrade-arguments workspace_cargo test --locked --workspace --test upgrade -- --nocapture
  trap - EXIT
  restore_release
}

# The chart of this checkout, with the examples, as dev/up leaves them.
restore_release() {
  install_chart
  apply_examples
  wait_for_session demo
}

# Links between pages of the repository lead to files that exist.
check_docs() {
  local page target broken=0
  while read -r page; do
    while read -r target; do
      target=${target%%#*}
      if [ -z "$target" ] || [[ $target =~ ^[a-z]+: ]]; then continue; fi
      [ -e "$(dirname "$page")/$target" ] || { say "$page: no such file: $target"; broken=1; }
    done < <(grep -oP '\]\(\K[^)\s]+' "$page" || true)
  done < <(find . \( -name node_modules -o -name target -o -name .dev -o -name .git \) -prune -o -name '*.md' -print)
  return "$broken"
}

# The tests install their own clients (e2e/clients/install), with this Node. Then the dashboard, as people have it.
check_e2e() {
  use_ui
  # the whole workspace, so that what all crates stand on is built for all of them once
  # three at once: what one of them waits for, the others use
  KUBECONFIG=$dot_dev/kubeconfig workspace_cargo test --locked --workspace --test e2e -- --test-threads 3
  CAMOFLEET_URL=$(cat "$dot_dev/gateway.url") CAMOFLEET_TOKEN=$(cat "$dot_dev/token") npm --prefix "$repo/ui" run test:fleet
}
