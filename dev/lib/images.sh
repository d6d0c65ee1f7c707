# Builds images without a registry: the host compiles the binaries (the images have the same Debian release), the
# Dockerfile copies them, and containerd imports only the layers that it lacks.
# shellcheck shell=bash

base_image=localhost/camofleet-base:$debian_release
base_archive=$cache/debian-$debian_release.tar
pause_image=localhost/camofleet-pause:$kubernetes_version
pause_binary=$cache/pause-$kubernetes_version
artifacts=$dot_dev/artifacts
oci_layout=$cache/oci
components=(operator gateway runner)

# Storage of its own, so that --purge can delete it without affecting other images.
builder() { buildah --root "$cache/buildah" --runroot "$cache/buildah-run" --storage-driver overlay "$@"; }
build() { quietly builder bud --isolation chroot --layers "$@"; }

build_pause() {
  apt_install "${image_packages[@]}" "${compile_packages[@]}"
  once "$pause_binary" gcc -Os -static -DVERSION="v$kubernetes_version" "$kubernetes_bin/pause.c" -o
  local context=$cache/pause-image
  mkdir -p "$context"
  cp -p "$pause_binary" "$context/pause"
  printf 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n' >"$context/Dockerfile"
  build --tag "$pause_image" "$context"
}

# Built with mmdebstrap instead of pulled, so that it works without a registry and is the same on every machine.
make_base_archive() {
  apt_install "${image_packages[@]}"
  once "$base_archive" quietly mmdebstrap --format=tar --variant=minbase "$debian_release"
}

build_base() {
  local context=$cache/base-image
  mkdir -p "$context"
  ln -f "$base_archive" "$context/base.tar"
  printf 'FROM scratch\nADD base.tar /\nCMD ["bash"]\n' >"$context/Dockerfile"
  build --tag "$base_image" "$context"
}

# Builds everything in the images that is not from Debian, at the paths of the Dockerfile's stage `build`. Published
# images and benchmarks use CAMOFLEET_PROFILE=release.
build_artifacts() {
  local component profile=${CAMOFLEET_PROFILE:-dev} built
  built=$CARGO_TARGET_DIR/${profile/#dev/debug}
  # The whole workspace, as in dev/test, because another selection has other features and would rebuild the
  # dependencies.
  cargo_quietly build --locked --workspace --profile "$profile" "${components[@]/#/--bin=camofleet-}"
  rm -rf "$artifacts"
  mkdir -p "$artifacts/bin" "$artifacts/launcher"
  for component in "${components[@]}"; do
    strip --strip-debug -o "$artifacts/bin/camofleet-$component" "$built/camofleet-$component"
  done
  # The image's Node must not depend on the machine's.
  once "$cache/node-$node_version" install_node
  cp -p "$cache/node-$node_version/bin/node" "$artifacts/bin/node"
  local modules
  modules=$cache/launcher-modules-$(cat "$repo"/runner/launcher/package*.json | sha256sum | cut -c1-16)
  once "$modules" install_launcher_modules
  cp -a "$modules/node_modules" "$artifacts/launcher"
  # Not by a pattern, because the upgrade base has no shell scripts.
  find "$repo/runner/launcher" -maxdepth 1 \( -name '*.js*' -o -name '*.sh' \) -exec cp -a -t "$artifacts/launcher" {} +
  rm -f "$artifacts"/launcher/*.test.js
  build_ui
}

build_ui() {
  local PATH=$cache/node-$node_version/bin:$PATH
  node_packages "$repo/ui"
  quietly npm --prefix "$repo/ui" run build
  cp -r "$repo/ui/dist" "$artifacts/ui"
}

install_launcher_modules() {
  local PATH=$cache/node-$node_version/bin:$PATH
  mkdir -p "$1"
  cp "$repo"/runner/launcher/package*.json "$1"
  quietly npm --prefix "$1" ci --omit=dev --no-audit --no-fund --loglevel=http
}

# hashes_of FILE…: hashes of these artifacts and all files below them.
hashes_of() { (cd "$artifacts" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum); }

# The tag is a hash of the content, so that a name never refers to another image.
image_name() {
  local tag
  tag=$({
    sha256sum <"$repo/Dockerfile"
    stat -c %Y%s "$base_archive"
    sha256sum <"$artifacts/bin/camofleet-$1"
    case $1 in
    runner) hashes_of launcher bin/node ;;
    gateway) hashes_of ui ;;
    esac
  } | sha256sum | cut -c1-16)
  echo "localhost/camofleet-$1:$tag"
}

# Builds and imports the images that the cluster lacks. Requires the cluster's containerd. Sets image_of[component].
build_images() { one_at_a_time images build_missing_images; }

build_missing_images() {
  local component missing=()
  declare -gA image_of
  make_base_archive # part of the images' names
  for component in "${components[@]}"; do
    image_of[$component]=$(image_name "$component")
    cluster_has_image "${image_of[$component]}" || missing+=("$component")
  done
  if [ "${#missing[@]}" -gt 0 ]; then
    build_base
    build --tag localhost/camofleet-artifacts --file - "$artifacts" <<<$'FROM scratch\nCOPY . /artifacts/'
    for component in "${missing[@]}"; do
      say "    ${image_of[$component]}"
      build --build-arg BASE="$base_image" --build-arg ARTIFACTS=localhost/camofleet-artifacts --target "$component" --tag "${image_of[$component]}" "$repo"
      import_image "${image_of[$component]}"
    done
  fi
}

cluster_has_image() { cri images ls -q "name==$1" | grep -q .; }

# import_image NAME: imports an image into containerd with the layers that containerd lacks. The OCI layout keeps
# uncompressed layers, so that the next copy writes only new ones (20 ms for 1 GB of existing layers). Its index lists
# only this image.
import_image() {
  if cluster_has_image "$1"; then return; fi
  rm -f "$oci_layout/index.json"
  note "importing $1 into containerd"
  skopeo --insecure-policy copy --quiet --dest-oci-accept-uncompressed-layers \
    "containers-storage:[overlay@$cache/buildah+$cache/buildah-run]$1" "oci:$oci_layout:$1"
  # shellcheck disable=SC2046 # a list
  tar -C "$oci_layout" -c oci-layout index.json $(layers_not_in_cluster) | quietly cri images import -
}

layers_not_in_cluster() {
  local have
  have=$(cri content ls -q)
  # An empty pattern would match every line.
  : "${have:=none}"
  find "$oci_layout/blobs/sha256" -type f -printf 'blobs/sha256/%f\n' | grep -vF "${have//sha256:/}" || true
}

# Removes images of earlier builds, which no pod uses.
remove_old_images() {
  local name
  old_images cri images ls -q | while read -r name; do cri images rm "$name" >/dev/null; done
  # The CRI plugin also names every image by its ID. This removes IDs without another name.
  cri images ls | awk 'NR > 1 && $1 ~ /^sha256:/ { id[$1] = $3 } NR > 1 && $1 !~ /^sha256:/ { used[$3] } END { for (i in id) if (!(id[i] in used)) print i }' |
    xargs -r ctr --address "$state/containerd/containerd.sock" --namespace k8s.io images rm --sync >/dev/null
  layers_not_in_cluster | (cd "$oci_layout" && xargs -r rm -f)
  old_images builder images --format '{{.Name}}:{{.Tag}}' | while read -r name; do quietly builder rmi "$name"; done
  quietly builder rmi --prune --force
}

# old_images COMMAND…: filters the image names that the command prints: those of the components, without the current
# ones.
old_images() {
  "$@" | grep -E "^localhost/camofleet-($(IFS='|'; echo "${components[*]}")):" | grep -vxF "$(printf '%s\n' "${image_of[@]}")" || true
}
