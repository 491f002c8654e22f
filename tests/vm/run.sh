#!/usr/bin/env bash
# natgate on PCI network cards: an emulated machine with two of them translates between two real hosts.
#
#   run.sh [PATH-OF-NATGATE]      without a path: only the machine, DPDK's own forwarder and the cards
#
#   10.0.0.16 ──── igb, two queues ──── natgate in QEMU ──── igb, two queues ──── 203.0.113.9
#
# The cards are QEMU's model of Intel's 82576 behind its model of an IOMMU, so what is driven is what a server has:
# vfio-pci, address translation, interrupts, descriptor rings, receive-side scaling. The speed is an emulator's.
#
# NATGATE_VM_CACHE   where QEMU and the kernel are kept (target/vm)
# NATGATE_VM_ACCEL   tcg (default, works everywhere) or kvm (faster, not tried)
# NATGATE_VM_RATES   UDP packets per second offered in each direction, one run each; the first must lose nothing
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
natgate=${1:+$(readlink -e "$1")} || { echo "test-vm: there is no $1" >&2; exit 1; }
cache=${NATGATE_VM_CACHE:-$here/../../target/vm}
accel=${NATGATE_VM_ACCEL:-tcg}
read -ra rates <<<"${NATGATE_VM_RATES:-2000 10000}"
lifetime=400 # seconds after which the machine is switched off, whatever happens
lan=0000:01:00.0
wan=0000:02:00.0
p=ngvm$$ # prefix of everything made here
inside=(10.0.0.{16..23})
work=$(mktemp -d)
failures=0

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { sed 's/^/    /'; }
fail() { failures=$((failures + 1)); printf '  \033[31m✗ %s\033[0m\n' "$*"; }
# check DESCRIPTION COMMAND…: runs the command and says whether it held.
check() {
  local what=$1
  shift
  if "$@" >"$work/check.log" 2>&1; then printf '  ✓ %s\n' "$what"; else
    fail "$what"
    show <"$work/check.log"
  fi
}
at() { local ns=$1; shift; ip netns exec "$p-$ns" "$@"; }
# wait_for SECONDS COMMAND…
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# shellcheck source=tests/vm/machine.sh
. "$here/machine.sh"

# Switches the machine off and removes the hosts.
tear_down() {
  local ns
  stop_machine
  for ns in in out vm; do
    ip netns pids "$p-$ns" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$p-$ns" 2>/dev/null || true
  done
}

clean_up() {
  local code=$?
  trap - EXIT
  [ "$code" -eq 0 ] || [ "$failures" -gt 0 ] || echo "test-vm: ended early, exit code $code" >&2
  tear_down
  rm -rf "$work"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

give_up() {
  fail "$1"
  tail -n 20 "$work/console" "$work/qemu.log" 2>/dev/null | show
  exit 1
}

# host NAMESPACE TAP ADDRESS…: one end of the wire, an ordinary Linux host. A tap hands over unfinished checksums
# unless told to behave like a real card.
host() {
  local ns=$1 tap=$2 address
  shift 2
  ip netns add "$p-$ns"
  ip -n "$p-$ns" link set lo up
  at "$ns" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
  attach "$tap" "$ns" || give_up "QEMU starts"
  at "$ns" ethtool -K eth0 tx off rx off tso off gso off gro off >/dev/null
  for address in "$@"; do ip -n "$p-$ns" addr add "$address" dev eth0; done
  ip -n "$p-$ns" link set eth0 txqueuelen 4000 up
}

# An emulated kernel now and then loses its timer when the machine underneath is busy, and then stands still: up to three
# attempts.
boot() {
  local began attempt
  for attempt in 1 2 3; do
    began=$EPOCHREALTIME
    ip netns add "$p-vm"
    start_machine
    # Several addresses inside: natgate gives each to one worker, neighbours in turn. 192.0.2.0/24 joins the two hosts while the machine only
    # forwards frames.
    host in lan "${inside[@]/%//24}" 192.0.2.1/24
    host out wan 203.0.113.9/24 192.0.2.2/24
    ip -n "$p-in" route add default via 10.0.0.1
    if answer up 60; then
      echo "  ✓ up after $(awk "BEGIN { printf \"%.0f\", $EPOCHREALTIME - $began }") s"
      return
    fi
    echo "  attempt $attempt: the machine is not up within a minute"
    tail -n 3 "$work/console" | show
    tear_down
  done
  give_up "the machine starts"
}

serve() {
  mkdir "$work/www" "$work/www/tmp"
  head -c 5000000 /dev/urandom >"$work/www/body"
  cat >"$work/www/nginx.conf" <<NGINX
daemon off; master_process off; user root; pid $work/www/pid; error_log $work/www/error.log;
events {}
http {
  log_format who '\$remote_addr';
  access_log $work/www/access.log who;
  client_body_temp_path $work/www/tmp; proxy_temp_path $work/www/tmp; fastcgi_temp_path $work/www/tmp;
  uwsgi_temp_path $work/www/tmp; scgi_temp_path $work/www/tmp;
  server { listen 80; root $work/www; }
}
NGINX
  ip netns exec "$p-out" nginx -e "$work/www/error.log" -c "$work/www/nginx.conf" 7>&- 8>&- &
  disown
  # An own socket for each address: an answer must come from the address that was asked.
  answers out 192.0.2.2
  answers out 203.0.113.9
  answers in 10.0.0.16
}

# answers NAMESPACE ADDRESS: whoever asks at port 7000 is told which source address was seen.
answers() {
  ip netns exec "$p-$1" /usr/bin/python3 "$here/flows.py" answer "$2" 7000 7>&- 8>&- &
  disown
}

# json FILE EXPRESSION: a Python expression about the document d.
json() { /usr/bin/python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"; }
# Whether such an expression holds; the file is shown when not.
holds() { [ "$(json "$1" "$2")" = True ] || { cat "$1"; return 1; }; }

# flows NAMESPACE SERVER RATE REPORT [SOURCE…]: 64 flows of small packets for five seconds.
flows() {
  local ns=$1 server=$2 rate=$3 report=$4
  shift 4
  at "$ns" /usr/bin/python3 "$here/flows.py" ask "$server" 7000 64 "$rate" 5 "$@" >"$report"
}

flows_line() {
  json "$1" '"{asked_per_second} packets/s each way in {flows} flows: {sent} sent, {answered} answered, {lost_ratio:.2%} lost".format(**d)'
}

# fetch ADDRESS: 5 MB over TCP arrive unchanged.
fetch() {
  rm -f "$work/body"
  at in curl -fsS --max-time 30 -w '%{speed_download}' -o "$work/body" "http://$1/body" >"$work/speed" &&
    cmp "$work/body" "$work/www/body"
}
fetched_rate() { awk '{ printf "%.1f Mbit/s\n", $1 * 8 / 1e6 }' "$work/speed"; }

# even COUNT COUNT: both did a fair part of the work (64 flows fall more unevenly than this once in a million).
even() { [ "$(($1 * 5))" -gt "$(($1 + $2))" ] && [ "$(($2 * 5))" -gt "$(($1 + $2))" ]; }

# bind_cards: what a user does once for each card (dpdk-devbind.py does the same).
bind_cards() {
  local card
  for card in $lan $wan; do
    guest "echo vfio-pci >/sys/bus/pci/devices/$card/driver_override
      echo $card >/sys/bus/pci/devices/$card/driver/unbind
      echo $card >/sys/bus/pci/drivers_probe" || return 1
  done
}

describe_cards() {
  guest "for card in $lan $wan; do
    d=/sys/bus/pci/devices/\$card
    echo \$card \$(cat \$d/vendor \$d/device) driver \$(basename \$(readlink \$d/driver)) iommu-group \$(basename \$(readlink \$d/iommu_group))
  done"
}

# DPDK's own forwarder: two queues a card, frames from one card to the other. Shows that the machine is sound
# before natgate is asked, and what the emulated cards can do at all.
testpmd() {
  local queue counts
  say "dpdk-testpmd forwards frames between the cards, two queues each"
  guest 'mkfifo /run/testpmd.in
    dpdk-testpmd -l 0-2 -n 2 --file-prefix testpmd -a '"$lan -a $wan"' -- -i --nb-cores=2 --rxq=2 --txq=2 --rss-udp \
      --forward-mode=io --mbcache=128 <>/run/testpmd.in >/run/vm/testpmd.log 2>&1 &
    echo $! >/run/testpmd.pid; echo start >/run/testpmd.in'
  wait_for 30 grep -q "packet forwarding - ports=2" "$share/testpmd.log" || { show <"$share/testpmd.log"; give_up "testpmd starts"; }
  wait_for 10 at in ping -c 1 -W 1 192.0.2.2 || true # until links are up; the checks say more
  check "20 of 20 pings answered" ping_all 192.0.2.2
  offer 192.0.2.2 testpmd
  check "5 MB over TCP arrive unchanged" fetch 192.0.2.2
  fetched_rate | show
  guest 'echo stop >/run/testpmd.in; sleep 1; echo quit >/run/testpmd.in
    for i in $(seq 100); do kill -0 $(cat /run/testpmd.pid) 2>/dev/null || exit 0; sleep 0.1; done; exit 1' ||
    fail "testpmd ends when asked"
  # "RX Port= 0/Queue= 1 -> TX …", then a line with RX-packets.
  sed -n '/RX Port=/{s/[^0-9]*\([01]\)\/Queue= *\([01]\).*/\1 \2/;N;s/\n.*RX-packets: *\([0-9]*\).*/ \1/p}' "$share/testpmd.log" |
    sort >"$work/streams"
  awk '{ printf "card %d queue %d received %d packets\n", $1, $2, $3 }' "$work/streams" | show
  mapfile -t counts < <(awk '{ print $3 }' "$work/streams")
  if [ "${#counts[@]}" -eq 4 ]; then
    check "both queues of the inner card worked" even "${counts[0]}" "${counts[1]}"
    check "both queues of the outer card worked" even "${counts[2]}" "${counts[3]}"
  else
    fail "testpmd reports two queues on each card"
    tail -n 40 "$share/testpmd.log" | show
  fi
}

ping_all() { at in ping -q -c 20 -i 0.05 -W 2 "$1" | tee /dev/stderr | grep -q ' 20 received'; }

# offer SERVER NAME [SOURCE…]: the flows at every rate; the first rate is one that even an emulator carries.
offer() {
  local server=$1 name=$2 rate report
  shift 2
  for rate in "${rates[@]}"; do
    report=$work/$name.$rate.json
    flows in "$server" "$rate" "$report" "$@" || { fail "flows.py at $rate packets/s"; continue; }
    flows_line "$report" | show
    if [ "$rate" = "${rates[0]}" ]; then
      check "nothing was lost on the way there and back" holds "$report" 'd["sent"] == d["answered"] and d["refused"] == 0'
    fi
  done
}

# ask ARGUMENTS: natgate's command line beside the running one; complaints are kept apart from the document.
ask() { guest "/tmp/natgate $* 2>>/run/vm/ask.log"; }
is_ready() { ask show status --json >"$work/status.json" && holds "$work/status.json" 'd["ready"] is True'; }
# snapshot WHAT FILE
snapshot() { ask show "$1" --json >"$2"; }

# refuses FILE PATTERN: natgate does not start with this configuration, says why in one line, and ends with exit code 1.
refuses() {
  local code=0 said=$work/refused
  guest "timeout 30 /tmp/natgate run -c /run/vm/$1" >"$said" || code=$?
  grep -v ' INFO ' "$said" | show
  check "exit code 1 (was $code)" test "$code" -eq 1
  check "one line says what is wrong and the way out" \
    awk -v pattern="$2" '/^natgate: / { lines++; if ($0 ~ pattern) right++ } END { exit !(lines == 1 && right == 1) }' "$said"
}

# variant NAME SED-SCRIPT: the configuration with a change.
variant() { sed "$2" "$here/natgate.toml" >"$share/$1.toml"; }

refuses_kernel_driver() {
  say "natgate says what is wrong with a card that the kernel still drives"
  refuses natgate.toml "$lan.*kernel driver igb.*dpdk-devbind.py -b vfio-pci $lan"
}

refuses_misfits() {
  say "… with a card that is not there, with more workers than a card has queues, with too little memory"
  variant absent "s/$wan/0000:09:00.0/"
  refuses absent.toml "no PCI device 0000:09:00.0.*--status-dev net"
  variant queues 's/^workers = .*/workers = 17/; /^queues = /d; s/^memory = .*/memory = "1GiB"/'
  refuses queues.toml "16 receive queues and 17 are wanted.*queues = 16"
  variant memory 's/^sessions = .*/sessions = 40_000_000/; s/^memory = .*/memory = "8GiB"/'
  refuses memory.toml "needs 4.* GiB, and the machine has .*sessions"
}

# start_natgate FILE: in the background of the guest, until it is ready and its links are up.
start_natgate() {
  rm -f "$share/natgate.code"
  guest "(/tmp/natgate run -c /run/vm/$1 >/run/vm/natgate.log 2>&1 & echo \$! >/run/natgate.pid; wait \$!; echo \$? >/run/vm/natgate.code) >/dev/null 2>&1 &"
  wait_for 40 is_ready || { show <"$share/natgate.log"; give_up "natgate is ready"; }
  echo "  ✓ natgate is ready"
  grep "port is open" "$share/natgate.log" | sed 's/.*port is open //' | show
  check "both cards took the key and the redirection table" \
    test "$(grep -c 'spread="to the worker of each subscriber"' "$share/natgate.log")" -eq 2
  wait_for 10 at in ping -c 1 -W 1 203.0.113.9 || true
}

translate() {
  local report=$work/natgate.${rates[0]}.json
  say "natgate translates between the cards, two workers, two queues each"
  show <"$here/natgate.toml"
  start_natgate natgate.toml
  check "its packet buffers are in huge pages" grep -q "packet buffers live in huge pages" "$share/natgate.log"
  check "20 of 20 pings to the gateway answered" ping_all 10.0.0.1
  check "20 of 20 pings through it answered" ping_all 203.0.113.9
  offer 203.0.113.9 natgate "${inside[@]}"
  check "the server saw 203.0.113.2 alone" holds "$report" 'd["outside_addresses"] == ["203.0.113.2"]'
  check "all 64 flows were answered, each kept one outside port of its own" holds "$report" \
    'd["flows_answered"] == d["outside_endpoints"] == 64 and d["flows_that_changed"] == 0'
  check "5 MB over TCP arrive unchanged" fetch 203.0.113.9
  fetched_rate | show
  steered
  from_outside
  check "the web server saw 203.0.113.2" grep -qx 203.0.113.2 "$work/www/access.log"
  books
  cards
  sample_metrics
  stop_natgate
}

# A bond passes on what its members are told: the same once more, with the outer card as a bond's only member.
bonded() {
  local report=$work/bonded.json
  say "… and with the outer card in a bond"
  variant bonded "s/^device = \"pci:$wan\"/bond = { mode = \"active-backup\", members = [\"pci:$wan\"] }/"
  start_natgate bonded.toml
  flows in 203.0.113.9 "${rates[0]}" "$report" "${inside[@]}" || fail "flows.py"
  flows_line "$report" | show
  check "nothing was lost, every flow kept its port" holds "$report" \
    'd["sent"] == d["answered"] and d["flows_answered"] == d["outside_endpoints"] == 64 and d["flows_that_changed"] == 0'
  steered
  books
  stop_natgate
}

# The other direction: what is opened from outside reaches the host behind the forwarded port, and its answers come back.
from_outside() {
  local report=$work/forward.json
  flows out 203.0.113.1 "${rates[0]}" "$report" || { fail "flows.py from outside"; return; }
  flows_line "$report" | show
  check "a forwarded port answers from outside, nothing lost" holds "$report" \
    'd["sent"] == d["answered"] and d["flows_answered"] == 64 and d["outside_addresses"] == ["203.0.113.9"]'
}

# The cards deliver to the worker that owns the flow, both ways: each queue received a fair part, and next to nothing was
# handed over (pings are: their identifiers are no ports).
steered() {
  local port counts
  snapshot queues "$work/queues.json" || fail "show queues answers"
  for port in inside outside; do
    mapfile -t counts < <(json "$work/queues.json" \
      "'\n'.join(str(q['packets']) for q in d['queues'] if q['port'] == '$port' and q['direction'] == 'rx')")
    echo "card $port: ${counts[0]:-0} packets on queue 0, ${counts[1]:-0} on queue 1" | show
    check "both queues of the card $port worked" even "${counts[0]:-0}" "${counts[1]:-0}"
  done
  snapshot workers "$work/workers.json" || fail "show workers answers"
  workers_lines
  check "fewer than 1 in 100 were handed to the other worker" holds "$work/workers.json" \
    'sum(w["handoff_out"] for w in d["workers"]) * 100 < sum(w["received"] for w in d["workers"])'
}

workers_lines() {
  json "$work/workers.json" '"\n".join("worker {worker} on core {core}: {received} packets received, {handoff_out} handed over, {sessions} sessions".format(**w) for w in d["workers"])' | show
}

# Every packet ended in exactly one place, those of the forwarded port included, which may arrive at the wrong worker.
books() {
  snapshot workers "$work/workers.json" || fail "show workers answers"
  workers_lines
  snapshot drops "$work/drops.json" || fail "show drops answers"
  check "every packet is accounted for" holds "$work/drops.json" 'd["total"]["received"] > 0 and d["total"]["imbalance"] == 0'
  json "$work/drops.json" '"total: " + ", ".join(f"{k} {v}" for k, v in d["total"].items() if k != "drops")' | show
  json "$work/drops.json" '"drops: " + (", ".join(f"{k} {v}" for k, v in d["total"]["drops"].items() if v) or "none")' | show
}

# What the cards themselves say: nothing was lost in them, and they counted what natgate counted.
cards() {
  guest "/tmp/natgate show ports" | show
  snapshot ports "$work/ports.json" || fail "show ports answers"
  check "the links are up, no card missed a packet or found one broken" holds "$work/ports.json" \
    'all(p["link_up"] and p["rx_missed"] == p["rx_errors"] == p["rx_nombuf"] == p["tx_errors"] == 0 for p in d["ports"])'
  snapshot status "$work/status.json"
  check "the cards counted what the workers counted" holds "$work/ports.json" \
    "sum(p['rx_packets'] for p in d['ports']) == $(json "$work/status.json" 'd["packets"]["received"]')"
}

sample_metrics() {
  guest "curl -fsS http://127.0.0.1:9464/metrics" >"$work/metrics" || fail "/metrics answers"
  check "/metrics has the cards' counters" grep -qE '^natgate_port_.*port="outside"' "$work/metrics"
}

stop_natgate() {
  guest 'kill -TERM $(cat /run/natgate.pid)'
  wait_for 20 test -s "$share/natgate.code" || fail "SIGTERM ended it within 20 s"
  check "SIGTERM ended it with exit code 0" grep -qx 0 "$share/natgate.code"
}

[ "$(id -u)" -eq 0 ] || { echo "test-vm: network namespaces need root (run: sudo make test-vm)" >&2; exit 1; }

say "What the machine is made of"
"$here/fetch.sh" "$cache"
cache=$(cd "$cache" && pwd)
"$cache/root/bin/busybox" true
echo "  ✓ $(LD_LIBRARY_PATH=$cache/root/usr/lib/x86_64-linux-gnu "$cache/root/usr/bin/qemu-system-x86_64" --version | head -n 1), kernel $(ls "$cache/root/lib/modules")"

say "The machine starts ($accel)"
boot
guest "grep -m 1 'model name' /proc/cpuinfo; nproc; grep HugePages_Total /proc/meminfo" | show
if [ -n "$natgate" ]; then
  cp "$natgate" "$share/natgate"
  cp "$here/natgate.toml" "$share/natgate.toml"
  guest "cp /run/vm/natgate /tmp/ && mkdir /run/natgate"
  refuses_kernel_driver
fi

say "The cards are given to DPDK"
describe_cards | show
bind_cards || fail "vfio-pci takes the cards"
describe_cards >"$work/cards"
show <"$work/cards"
check "vfio-pci drives both, each in an IOMMU group of its own" \
  test "$(awk '$5 == "vfio-pci" { print $7 }' "$work/cards" | sort -u | wc -l)" -eq 2

serve
testpmd
if [ -n "$natgate" ]; then
  refuses_misfits
  translate
  bonded
fi

say "The end"
if [ "$failures" -gt 0 ]; then
  printf '\n\033[31m%s\033[0m\n' "test-vm: $failures checks failed"
  for log in natgate.log ask.log; do
    [ ! -s "$share/$log" ] || { echo "$log:"; tail -n 60 "$share/$log" | show; }
  done
  exit 1
fi
printf '\ntest-vm: everything shown is true\n'
