# shellcheck shell=bash
# The emulated machine, for run.sh, which has set $work, $cache, $p (prefix of every name), $accel and $lifetime.
#
#   namespace in   eth0 ──── igb 0000:01:00.0 ─┐
#                                              │ a root port each, IOMMU, three cores
#   namespace out  eth0 ──── igb 0000:02:00.0 ─┘
#
# The guest runs jobs, one at a time, that it is told over a serial port; files go through $share, its /run/vm.

share=$work/share
machine_pid=

start_machine() {
  local root=$cache/root tap="script=no,downscript=no,vnet_hdr=off"
  # An own library path, firmware and modules: this QEMU is unpacked, not installed.
  local environment=(LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu" QEMU_MODULE_DIR="$root/usr/lib/x86_64-linux-gnu/qemu")
  # The two taps appear in QEMU's namespace; attach moves them to the hosts. -nodefaults: no other device.
  local machine=(
    -machine q35 -accel "$accel" -cpu max -smp 3 -m 2560 -nodefaults -display none -no-reboot
    -L "$root/usr/share/qemu" -L "$root/usr/share/seabios"
    -device intel-iommu,intremap=off,caching-mode=on
    -device pcie-root-port,id=port1,chassis=1,addr=0x4 -device pcie-root-port,id=port2,chassis=2,addr=0x5
    -netdev "tap,id=lan,ifname=lan,$tap" -device igb,bus=port1,netdev=lan,mac=52:54:00:00:01:01,romfile=
    -netdev "tap,id=wan,ifname=wan,$tap" -device igb,bus=port2,netdev=wan,mac=52:54:00:00:02:01,romfile=
    -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap
    -device virtio-9p-pci,fsdev=host,mount_tag=host,addr=0x6
    -fsdev local,id=share,path="$share",security_model=none,multidevs=remap
    -device virtio-9p-pci,fsdev=share,mount_tag=share,addr=0x7
    -serial "file:$work/console" -serial "pipe:$work/jobs"
    -kernel "$(echo "$root"/boot/vmlinuz-*)" -initrd "$cache/initramfs"
    -append "console=ttyS0 loglevel=4 panic=-1 intel_iommu=on iommu=pt hugepages=512"
  )
  rm -rf "$share" "$work"/jobs.*
  mkdir "$share"
  mkfifo "$work/jobs.in" "$work/jobs.out"
  # Both ends open both ways, so that opening never waits for the other.
  exec 7<>"$work/jobs.in" 8<>"$work/jobs.out"
  # timeout ends QEMU even if this script is killed the hard way.
  ip netns exec "$p-vm" env "${environment[@]}" timeout --kill-after=5 "$lifetime" \
    "$root/usr/bin/qemu-system-x86_64" "${machine[@]}" >"$work/qemu.log" 2>&1 7>&- 8>&- &
  machine_pid=$!
}

runs() { kill -0 "$machine_pid" 2>/dev/null; }

# attach TAP NAMESPACE: the card's wire becomes that host's eth0.
attach() {
  wait_for 10 ip -n "$p-vm" link show "$1" || return 1
  ip -n "$p-vm" link set "$1" netns "$p-$2" name eth0
}

# answer JOB SECONDS: waits until the guest is done with it; the job's exit code.
answer() {
  local job=$1 deadline=$((SECONDS + $2)) name code
  while runs && [ "$SECONDS" -lt "$deadline" ]; do
    read -r -t 1 -u 8 name code || continue
    [ "$name" = "$job" ] && return "${code:-0}"
  done
  return 124
}

# guest COMMAND: a line of shell in the machine, with the host's programs and files; its output and exit code.
guest() {
  local job=job.$BASHPID.$EPOCHREALTIME code=0
  printf '%s\n' "$*" >"$share/$job"
  echo "$job" >&7
  answer "$job" 60 || code=$?
  cat "$share/$job.out" 2>/dev/null || true
  rm -f "$share/$job" "$share/$job.out"
  return "$code"
}

# Switches it off, and makes sure that it is off.
stop_machine() {
  [ -n "$machine_pid" ] || return 0
  kill "$machine_pid" 2>/dev/null || true
  wait "$machine_pid" 2>/dev/null || true
  machine_pid=
}
