#!/usr/bin/env bash
# Gets what the emulated machine is made of into a directory, and installs nothing.
#
#   fetch.sh DIRECTORY     fills DIRECTORY/root (a QEMU that has igb, busybox, a kernel) and DIRECTORY/initramfs
#
# Debian's packages are downloaded with apt, which checks their signatures, through package lists of our own: the
# system's sources, pins and installed packages stay as they are. Debian 12's QEMU has no igb, its backports have.
set -euo pipefail

cache=$(mkdir -p "${1:?usage: fetch.sh DIRECTORY}" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
# Modules the guest loads; what they depend on comes along.
modules="virtio_pci 9p 9pnet_virtio igb vfio vfio_iommu_type1 vfio-pci"

say() { echo "  $*"; }
give_up() { echo "test-vm: $*" >&2; exit 1; }

apt_options() {
  local codename
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] || give_up "this is not Debian: QEMU 10 and a kernel are fetched from its archive"
  mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %s main\n' \
    "$codename" "$codename-backports" >"$cache/apt/sources.list"
  release=$codename-backports
  # Downloading as root needs no sandbox user, who could not write here.
  options=(-qq -o "Dir::Etc::sourcelist=$cache/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt" -o Debug::NoLocking=1
    -o APT::Sandbox::User=root -o APT::Install-Recommends=false)
}

download() {
  local kernel
  say "package lists of Debian $release"
  apt-get "${options[@]}" update
  kernel=$(apt-cache "${options[@]}" depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  [ -n "$kernel" ] || give_up "no kernel package found"
  say "$kernel, busybox-static, qemu-system-x86 and the libraries it misses (about 100 MB)"
  (cd "$cache/apt/archives" && apt-get "${options[@]}" download "$kernel" busybox-static)
  # With an unpacked QEMU the libraries that are installed already need not be fetched.
  apt-get "${options[@]}" install -y --download-only -t "$release" qemu-system-x86 >/dev/null
  # QEMU may be installed (then nothing came): it is still wanted here if it lacks igb, and harmless if not.
  ls "$cache"/apt/archives/qemu-system-x86_*.deb >/dev/null 2>&1 ||
    (cd "$cache/apt/archives" && apt-get "${options[@]}" download -t "$release" qemu-system-x86 qemu-system-common qemu-system-data seabios)
}

unpack() {
  local package
  rm -rf "$cache/root.new"
  mkdir "$cache/root.new"
  for package in "$cache"/apt/archives/*.deb; do dpkg-deb -x "$package" "$cache/root.new"; done
  mv "$cache/root.new" "$cache/root"
  rm -rf "$cache/apt"
}

# The guest starts from a busybox, the modules above and our init; everything else it sees of the host.
make_initramfs() {
  local root=$cache/root tree=$cache/tree busybox=$cache/root/bin/busybox version module files
  version=$(ls "$root/lib/modules")
  "$busybox" depmod -b "$root" "$version"
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,dev,proc,sys,host} "$tree/lib/modules/$version"
  cp "$busybox" "$tree/bin/"
  cp "$root/lib/modules/$version/modules.dep" "$tree/lib/modules/$version/"
  for module in $modules; do
    # A line of modules.dep: the module's file, a colon, the files it needs.
    files=$(grep -E "/${module//[-_]/[-_]}\.ko[a-z.]*:" "$root/lib/modules/$version/modules.dep" | tr -d ':') ||
      grep -qE "/${module//[-_]/[-_]}\.ko" "$root/lib/modules/$version/modules.builtin" ||
      give_up "kernel $version has no module $module"
    for files in $files; do (cd "$root/lib/modules/$version" && cp --parents "$files" "$tree/lib/modules/$version/"); done
  done
  install -m 755 "$here/init" "$tree/init"
  (cd "$tree" && find . | "$busybox" cpio -o -H newc | gzip -1) >"$cache/initramfs.new"
  mv "$cache/initramfs.new" "$cache/initramfs"
  rm -rf "$tree"
}

if [ ! -d "$cache/root" ]; then
  apt_options
  download
  unpack
fi
# Always: it takes a second, and init may have changed.
make_initramfs
