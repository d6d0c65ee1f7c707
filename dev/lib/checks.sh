# The parts of dev/test. Each runs in a shell of its own and exits with 0 (passed), 1 (failed), or $skipped and the
# cause as its last line.
# shellcheck shell=bash

skipped=75
skip() { say "$*"; exit "$skipped"; }

# Lints and formatting differ between compiler versions, so only the pinned one is used.
need_pinned_rust() {
  local pinned have
  pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$repo/rust-toolchain.toml")
  have=$(cd "$repo" && rustc --version | awk '{print $2}')
  [ "$have" = "$pinned" ] || skip "requires Rust $pinned, found $have"
}

check_format() {
  need_pinned_rust
  cargo fmt --all --check
}

# SC1090, SC1091, SC2034 and SC2154 are excluded because the files of lib/ use each other's variables.
check_shell() {
  local commands command summary
  apt_install shellcheck
  mapfile -t commands < <(find dev -maxdepth 1 -type f)
  shellcheck --exclude=SC1090,SC1091,SC2034,SC2154 --severity=style "${commands[@]}" dev/lib/*.sh .ci/run
  for command in "${commands[@]}"; do
    summary=$(summary_of "$command")
    # dev/help prints the summary.
    [[ $summary == *. && ${#summary} -le 100 ]] || { say "$command: the second line must describe the command in one sentence of at most 100 characters"; return 1; }
  done
}

check_clippy() {
  need_pinned_rust
  workspace_cargo clippy --locked --workspace --all-targets -- -D warnings
  workspace_cargo clippy --locked --workspace --test e2e --test upgrade --test flood --test traces --test failures -- -D warnings
}

# Dependencies must come from the registry, have allowed licences, and include one TLS provider (deny.toml).
check_licences() {
  cargo_deny --offline check bans licenses sources
}

check_advisories() {
  local log status=0
  log=$(mktemp)
  cargo_deny check advisories 2>&1 | tee "$log" || status=$?
  if [ "$status" != 0 ] && grep -q 'failed to fetch advisory database' "$log"; then
    skip "cannot reach the advisory database, so nothing was checked"
  fi
  return "$status"
}

cargo_deny() {
  local tool=$cache/cargo-deny-$cargo_deny_version
  once "$tool" install_cargo_deny
  cargo fetch --locked --quiet
  "$tool/bin/cargo-deny" --workspace "$@"
}

# Runs outside the checkout, so that its pinned compiler does not apply, and deletes the objects, which nothing reuses.
# Without optimisation, which would take minutes to save seconds.
install_cargo_deny() {
  (cd / && CARGO_TARGET_DIR=$1.target CARGO_PROFILE_DEV_DEBUG=0 CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 quietly cargo install --debug --locked --version "$cargo_deny_version" --root "$1" cargo-deny)
  rm -rf "$1.target"
}

# Installs the programs that the runner's tests start on this machine; the runner's image has the same.
use_browsers() {
  apt_install firefox-esr tigervnc-standalone-server ffmpeg fonts-liberation fonts-dejavu-core
  use_node
  node_packages "$repo/runner/launcher"
}

# Compiles all programs and tests, so that parts running in parallel do not wait for cargo.
check_build() {
  export CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100
  workspace_cargo build --locked --workspace "${components[@]/#/--bin=camofleet-}"
  workspace_cargo test --locked --workspace --no-run
  workspace_cargo test --locked --workspace --no-run --test traces --test failures --test e2e
}

# Starts the dev cluster, for the parts that need it.
check_up() { "$repo/dev/up"; }

check_unit() {
  use_browsers
  workspace_cargo test --locked --workspace
}

# The launcher with this machine's Firefox and each version of Playwright that it supports.
check_launcher() {
  use_browsers
  npm --prefix "$repo/runner/launcher" test
}

# Traces and metrics that a real operator exports to a collector.
check_traces() {
  build_kubernetes
  workspace_cargo test --locked --workspace --test traces
}

# The operator on an API server during failures. The tests mostly wait, so five run in parallel.
check_failures() {
  apt_install faketime
  build_kubernetes
  workspace_cargo test --locked --workspace --test failures -- --test-threads 5
}

# Installs the browsers and packages that the UI's tests need.
use_ui() {
  apt_install chromium firefox-esr tigervnc-standalone-server xterm fonts-dejavu-core
  use_node
  node_packages "$repo/ui"
}

# Types, lint, format, and the pages in Debian's Chromium and Firefox on a real X display.
check_ui() {
  use_ui
  npm --prefix "$repo/ui" run check
  npm --prefix "$repo/ui" test
}

# The Argo CD health scripts, run as Argo CD runs them.
check_argo() {
  use_go
  # -count=1, because Go does not notice changes of files outside the module and would print a cached result.
  go -C dev/kubernetes/argo-health test -count=1 ./...
}

# Values with which the chart renders every template.
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
  # shellcheck disable=SC2016 # expanded when the trap runs
  trap 'rm -rf "'"$folder"'"; if [ "${#foreign[@]}" -gt 0 ]; then k delete "${foreign[@]/#/--filename=}"; fi' EXIT
  "$helm" lint --strict charts/camo-fleet
  "$helm" lint --strict charts/camo-fleet "${all_values[@]}"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet >"$folder/default.yaml"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet "${all_values[@]}" >"$folder/first.yaml"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet "${all_values[@]}" >"$folder/second.yaml"
  say "rendering is deterministic:"
  cmp "$folder/first.yaml" "$folder/second.yaml"
  say "the chart contains every CRD and keeps it on uninstall:"
  crds=$(find crds/yaml -name '*.yaml' | wc -l)
  [ "$crds" -gt 0 ]
  [ "$(grep -c '^kind: CustomResourceDefinition' "$folder/default.yaml")" = "$crds" ]
  [ "$(grep -c 'helm.sh/resource-policy: keep' "$folder/default.yaml")" = "$crds" ]
  say "hooks are rendered only where Helm runs them, or if hooks.enabled is true:"
  [ "$(grep -c 'helm.sh/hook:' "$folder/default.yaml")" = 0 ]
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet --set hooks.enabled=false >"$folder/none.yaml"
  cmp "$folder/default.yaml" "$folder/none.yaml"
  expect_jobs "$folder/first.yaml" abandon-pools apply-pools delete-pools
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet "${all_values[@]}" --set uninstall.deleteAllPools=true >"$folder/everything.yaml"
  expect_jobs "$folder/everything.yaml" apply-pools delete-pools
  "$helm" --kubeconfig "$admin_kubeconfig" template camo-fleet charts/camo-fleet -n camo-fleet --dry-run=server >"$folder/found.yaml"
  expect_jobs "$folder/found.yaml" abandon-pools apply-pools delete-pools
  say "the Job that deletes pools has permissions in all namespaces only if a pool allows other namespaces:"
  "$helm" template camo-fleet charts/camo-fleet -n camo-fleet --set hooks.enabled=true --set pools.headless.allowedNamespaces.from=Same >"$folder/own.yaml"
  [ "$(cluster_roles "$folder/own.yaml" | grep -c delete-pools)" = 0 ]
  [ "$(cluster_roles "$folder/first.yaml" | grep -c delete-pools)" = 1 ]
  say "the schema rejects wrong values:"
  for wrong in "${wrong_values[@]}"; do
    if "$helm" template camo-fleet charts/camo-fleet --set "$wrong" >/dev/null 2>"$folder/rejection"; then say "accepted: $wrong"; return 1; fi
    grep -q "values don't meet the specifications" "$folder/rejection" || { cat "$folder/rejection"; return 1; }
  done
  say "install.yaml matches the chart:"
  dev/install-yaml | cmp - charts/install.yaml
  say "the API server accepts every object:"
  for file in $(third_party_crds); do
    # A CRD that existed before stays unchanged.
    if k create -f "$file"; then foreign+=("$file"); fi
    # kubectl wait fails for an object without conditions.
    wait_for 60 "conditions of the CRD in $file" has_conditions "$file"
    k wait --for=condition=Established --timeout=60s -f "$file"
  done
  k apply --server-side --force-conflicts --dry-run=server --validate=strict -f "$folder/default.yaml" -f "$folder/first.yaml" -f "$folder/everything.yaml"
}

# expect_jobs FILE NAME…: fails unless the rendered file has exactly these hook Jobs, given in alphabetical order.
expect_jobs() {
  local file=$1 found
  shift
  found=$(grep -A 2 '^kind: Job$' "$file" | sed -n 's/^  name: camofleet-//p' | sort | tr '\n' ' ')
  [ "$found" = "$* " ] || { say "$file has the Jobs $found, expected $*"; return 1; }
}

# cluster_roles FILE: the names of the ClusterRoles in a rendered file.
cluster_roles() { grep -A 2 '^kind: ClusterRole$' "$1" | sed -n 's/^  name: //p'; }

has_conditions() { [ -n "$(k get -f "$1" -o 'jsonpath={.status.conditions}')" ]; }

# Prints the files with the third-party CRDs of which the chart renders objects.
third_party_crds() {
  use_go
  local kind module=(go -C "$repo/dev/kubernetes/third-party-crds" list -m -f '{{.Dir}}')
  quietly go -C "$repo/dev/kubernetes/third-party-crds" mod download
  echo "$("${module[@]}" sigs.k8s.io/gateway-api)/config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
  for kind in servicemonitors prometheusrules; do
    echo "$("${module[@]}" github.com/prometheus-operator/prometheus-operator)/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml"
  done
}

# Creates and deletes ten thousand sessions while something fails every few seconds; none must be lost, duplicated or
# leaked.
check_chaos() { measure chaos; }

# Creates sessions in one namespace while a tenant of another namespace attacks the operator. The scenario lists the
# invariants.
check_hostile() {
  need_root
  measure hostile
}

# Runs a scenario of bench/, which fails if an invariant is violated.
measure() {
  build_kubernetes
  workspace_cargo run --locked --release --package camofleet-bench -- "$@"
}

# Idle connections to a runner for two minutes.
check_flood() {
  use_node
  KUBECONFIG=$dot_dev/kubeconfig workspace_cargo test --locked --workspace --test flood -- --nocapture
}

# All tests of the judges (e2e/judges), of which `e2e` runs a tenth.
check_judges() {
  use_ui
  KUBECONFIG=$dot_dev/kubeconfig CAMOFLEET_E2E_JUDGES_SAMPLE=1 \
    workspace_cargo test --locked --workspace --test e2e -- --nocapture judges
}

# An upgrade from the upgrade base and the rollback to it, with running sessions. Afterwards the dev cluster has the
# current version.
check_upgrade() {
  has_upgrade_base || skip "this clone lacks commit $upgrade_base, from which the test upgrades: run git fetch --unshallow"
  use_node
  build_images # sets image_of; dev/up has built them
  chart_arguments >"$dot_dev/upgrade-arguments"
  trap restore_release EXIT
  with_upgrade_base install_fresh
  KUBECONFIG=$dot_dev/kubeconfig CAMOFLEET_UPGRADE_ARGUMENTS=$dot_dev/upgrade-arguments workspace_cargo test --locked --workspace --test upgrade -- --nocapture
  trap - EXIT
  restore_release
}

# Installs the chart and the examples of this checkout, as dev/up does.
restore_release() {
  install_chart
  apply_examples
  wait_for_session demo
}

check_docs() {
  check_links
  check_imports
  check_prose
}

# No crate has an import cycle.
check_imports() { "$repo/dev/modules" --check; }

# No line has an expression of the word list, except the lines of dev/prose/allowed (path, part of the line and reason,
# separated by tabs). Generated files are left out, because they repeat their sources.
check_prose() {
  local findings path line message part reason text found=0
  local -A allowed=() used=()
  use_go
  once "$cache/vale-$vale_version" install_vale
  while IFS=$'\t' read -r path part reason; do
    [ -n "$reason" ] || { say "dev/prose/allowed: an entry of $path has no reason"; found=1; }
    allowed[$path:$part]=$part
  done <dev/prose/allowed
  # captured first, so that an error of Vale fails the check
  findings=$(prose_files | xargs -0 "$cache/vale-$vale_version/vale" --config dev/prose/vale.ini --no-exit --output line)
  while IFS=: read -r path line _ _ message; do
    [ -n "$path" ] || continue
    text=$(sed -n "${line}p" "$path")
    for part in "${!allowed[@]}"; do
      if [[ $part == "$path:"* && $text == *"${allowed[$part]}"* ]]; then used[$part]=yes; continue 2; fi
    done
    say "$path:$line: $message"
    found=1
  done <<<"$findings"
  for part in "${!allowed[@]}"; do
    [ -n "${used[$part]:-}" ] || { say "dev/prose/allowed: no line has what this entry allows: $part"; found=1; }
  done
  return "$found"
}

prose_files() {
  find . \( -name node_modules -o -name target -o -name .dev -o -name .git -o -name dist -o -name test-results \) -prune -o \
    \( -path ./crds/yaml -o -path ./charts/install.yaml -o -path ./dev/prose \) -prune -o -type f \
    \( -name '*.md' -o -name '*.rs' -o -name '*.ts' -o -name '*.tsx' -o -name '*.js' -o -name '*.mjs' -o -name '*.cjs' \
    -o -name '*.css' -o -name '*.html' -o -name '*.lua' -o -name '*.py' -o -name '*.sh' -o -name '*.yaml' -o -name '*.yml' \
    -o -name '*.tpl' -o -name NOTES.txt -o -path './dev/*' -o -path './.ci/*' \) -printf '%P\0'
}

install_vale() { GOBIN=$1 quietly env -C / go install "github.com/vale-cli/vale/v3/cmd/vale@v$vale_version"; }

# Links between Markdown files of the repository must lead to existing files.
check_links() {
  local page target broken=0
  while read -r page; do
    while read -r target; do
      target=${target%%#*}
      if [ -z "$target" ] || [[ $target =~ ^[a-z]+: ]]; then continue; fi
      [ -e "$(dirname "$page")/$target" ] || { say "$page: linked file does not exist: $target"; broken=1; }
    done < <(grep -oP '\]\(\K[^)\s]+' "$page" || true)
  done < <(find . \( -name node_modules -o -name target -o -name .dev -o -name .git \) -prune -o -name '*.md' -print)
  return "$broken"
}

# End-to-end tests, which install their own clients (e2e/clients/install) with this Node. The tests in `alone` exclude
# others, so the dashboard's tests on the fleet run beside the rest.
check_e2e() {
  use_ui
  local status=0 dashboard_pid
  e2e_tests alone:: || status=$?
  dashboard_tests &
  dashboard_pid=$!
  e2e_tests --skip alone:: || status=$?
  wait "$dashboard_pid"
  return "$status"
}

# e2e_tests FILTER…: compiles the whole workspace, so that shared dependencies are compiled once. Three threads, because
# tests mostly wait.
e2e_tests() {
  KUBECONFIG=$dot_dev/kubeconfig workspace_cargo test --locked --workspace --test e2e -- --test-threads 3 "$@"
}

dashboard_tests() {
  CAMOFLEET_URL=$(cat "$dot_dev/gateway.url") CAMOFLEET_TOKEN=$(cat "$dot_dev/token") npm --prefix "$repo/ui" run test:fleet
}
