#!/usr/bin/env bash
# Installs what building, testing and demonstrating natgate needs on Debian 12, when it is missing.
#
# Nothing is upgraded, no service is started or enabled, and nothing at all happens on a machine that has
# everything. Rust is not installed: Debian's is too old, and how to get it is the user's decision.
set -euo pipefail

# One line for each need: a command that succeeds when it is there, and the package that brings it.
needs() {
  cat <<'EOF'
command -v make               | make
command -v cc                 | gcc libc6-dev
command -v clang              | clang
ls /usr/lib/llvm-*/lib/libclang.so* | libclang-dev
command -v pkg-config         | pkg-config
pkg-config --exists libdpdk   | libdpdk-dev
command -v dpdk-testpmd       | dpdk-dev
command -v ip                 | iproute2
command -v sysctl             | procps
command -v ethtool            | ethtool
command -v nft                | nftables
command -v iptables-restore   | iptables
command -v conntrack          | conntrack
command -v tcpdump            | tcpdump
command -v valgrind           | valgrind
command -v ping               | iputils-ping
command -v tracepath          | iputils-tracepath
command -v traceroute         | traceroute
command -v curl               | curl ca-certificates
command -v nginx              | nginx-light
command -v dnsmasq            | dnsmasq-base
command -v dig                | bind9-dnsutils
command -v iperf3             | iperf3
command -v turnserver         | coturn
command -v vsftpd             | vsftpd
command -v lftp               | lftp
command -v tftp               | tftp-hpa
command -v in.tftpd           | tftpd-hpa
command -v sipp               | sip-tester
command -v promtool           | prometheus
command -v nmap               | nmap
command -v hping3             | hping3
command -v stun               | stun-client
/usr/bin/python3 -c 'import scapy' | python3-scapy
EOF
}

missing_packages() {
  local check package
  while IFS='|' read -r check package; do
    # Administration programs live in directories an ordinary user's PATH leaves out.
    PATH=$PATH:/usr/sbin:/sbin bash -c "$check" >/dev/null 2>&1 || printf '%s\n' $package
  done < <(needs)
}

install_packages() {
  local root=() policy=/usr/sbin/policy-rc.d ours=false
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  echo "setup: installing $*"
  # Several of these packages would start a service; 101 is Debian's way of saying no to that.
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
    ours=true
  fi
  # shellcheck disable=SC2064 # the values of now are meant
  trap "! $ours || ${root[*]} rm -f $policy" EXIT
  "${root[@]}" apt-get update -qq
  # Recommended packages would pull in an upgrade of systemd and more.
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  # Installing enables services for the next boot; the tests start their own copies where they need them.
  if [ -d /run/systemd/system ]; then
    local unit
    for unit in nginx coturn prometheus nftables iperf3; do
      case " $* " in
        *" $unit"*) "${root[@]}" systemctl disable --quiet "$unit" 2>/dev/null || true ;;
      esac
    done
  fi
}

require_rust() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
  if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing; natgate needs Rust $wanted or newer (Debian's is too old)." >&2
    echo "setup: get it with rustup (https://rustup.rs), then start this again." >&2
    exit 1
  fi
  have=$(rustc --version | cut -d' ' -f2)
  if [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "setup: Rust $have is too old, natgate needs $wanted or newer: rustup update stable" >&2
    exit 1
  fi
}

mapfile -t packages < <(missing_packages)
if [ "${#packages[@]}" -gt 0 ]; then
  install_packages "${packages[@]}"
  mapfile -t packages < <(missing_packages)
  if [ "${#packages[@]}" -gt 0 ]; then
    echo "setup: still missing after installing: ${packages[*]}" >&2
    exit 1
  fi
fi
require_rust
