#!/usr/bin/env bash
# natgate at work: four hosts of a private network use a public server through one public address.
#
#   h1 h2 h3 h4                      natgate                      www
#   10.0.0.11–14 ──── switch ──── 10.0.0.1 | 203.0.113.1 ──── 203.0.113.9
#
# Everything lives in network namespaces that disappear at the end, also after a failure. The exit code is
# 0 only if every line marked with a tick was found true.
set -euo pipefail

natgate=$(readlink -f "${1:?usage: demo.sh PATH-OF-NATGATE}")
here=$(cd "$(dirname "$0")" && pwd)
hosts=(h1 h2 h3 h4)
p=ngdemo$$ # prefix of everything made here
work=$(mktemp -d)
failures=0
gateway_pid=

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
ask() { at gw env NATGATE_SOCKET="$work/natgate.sock" "$natgate" "$@"; }

clean_up() {
  local ns
  for ns in "${hosts[@]}" lan gw www; do
    ip netns pids "$p-$ns" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$p-$ns" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# cable NS DEVICE NS DEVICE: a wire between two namespaces. A veth pair hands over packets with unfinished
# checksums and oversized segments unless told to behave like a real one.
cable() {
  ip -n "$p-$1" link add name "$2" type veth peer name "$4" netns "$p-$3"
  at "$1" ethtool -K "$2" tx off rx off tso off gso off gro off >/dev/null
  at "$3" ethtool -K "$4" tx off rx off tso off gso off gro off >/dev/null
  ip -n "$p-$1" link set "$2" up
  ip -n "$p-$3" link set "$4" up
}

build_network() {
  local ns n=11
  for ns in "${hosts[@]}" lan gw www; do
    ip netns add "$p-$ns"
    ip -n "$p-$ns" link set lo up
    # IPv4 is shown here; hosts that announce themselves over IPv6 would blur the counters.
    at "$ns" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
  done
  ip -n "$p-lan" link add switch type bridge mcast_snooping 0
  ip -n "$p-lan" link set switch up
  cable lan to-gw gw lan0
  ip -n "$p-lan" link set to-gw master switch
  for ns in "${hosts[@]}"; do
    cable lan "to-$ns" "$ns" eth0
    ip -n "$p-lan" link set "to-$ns" master switch
    ip -n "$p-$ns" addr add "10.0.0.$n/24" dev eth0
    ip -n "$p-$ns" route add default via 10.0.0.1
    n=$((n + 1))
  done
  cable gw wan0 www eth0
  ip -n "$p-www" addr add 203.0.113.9/24 dev eth0
  # The devices natgate drives are its alone: no address, and the kernel does not answer ARP on them.
  ip -n "$p-gw" link set lan0 arp off
  ip -n "$p-gw" link set wan0 arp off
}

# web NS ADDRESS: nginx that serves NS's directory and logs who asked.
web() {
  local dir=$work/$1
  mkdir -p "$dir/root" "$dir/tmp"
  cat >"$dir/nginx.conf" <<EOF
daemon off; master_process off; user root; pid $dir/pid; error_log $dir/error.log;
events {}
http {
  log_format who '\$remote_addr:\$remote_port  \$request  \$status  \$body_bytes_sent bytes';
  access_log $dir/access.log who;
  client_body_temp_path $dir/tmp; proxy_temp_path $dir/tmp; fastcgi_temp_path $dir/tmp;
  uwsgi_temp_path $dir/tmp; scgi_temp_path $dir/tmp;
  server { listen $2:80; root $dir/root; }
}
EOF
  ip netns exec "$p-$1" nginx -e "$dir/error.log" -c "$dir/nginx.conf" &
  disown
}

# wait_for SECONDS COMMAND…
wait_for() {
  local left=$(($1 * 20))
  shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    sleep 0.05
  done
}

is_ready() { ask show status --json | grep -qE '"state": ?"ready"'; }
listens() { at "$1" ss -Hltn "sport = :$2" | grep -q .; }
drops() {
  ask show drops --json | /usr/bin/python3 -c '
import json, sys
print(sum(row["packets"] for row in json.load(sys.stdin)["drops"]))'
}
fetch() { at "$1" curl -fsS --max-time 60 "http://$2/" | sha256sum; }
# all_equal FILE WANTED: every line of the file is WANTED.
all_equal() { [ -s "$1" ] && ! grep -qvxF -- "$2" "$1"; }

write_config() { sed "s|@WORK@|$work|; s|@INSTANCE@|$p|" "$here/natgate.toml" >"$work/natgate.toml"; }

start_gateway() {
  write_config
  show <"$here/natgate.toml"
  # `ip netns exec` becomes the program it starts: this is natgate's own process number.
  ip netns exec "$p-gw" "$natgate" run -c "$work/natgate.toml" >"$work/natgate.log" 2>&1 &
  gateway_pid=$!
  if ! wait_for 20 is_ready; then
    fail "natgate is ready"
    show <"$work/natgate.log"
    exit 1
  fi
  echo "  ✓ natgate is ready"
}

browse() {
  local host sum
  sum=$(sha256sum <"$work/www/root/index.html")
  for host in "${hosts[@]}"; do
    fetch "$host" 203.0.113.9 >"$work/sum.$host" &
    pids+=($!)
  done
  wait "${pids[@]}" || true
  for host in "${hosts[@]}"; do
    check "$host received 20 MB with the server's checksum ${sum:0:16}…" all_equal "$work/sum.$host" "$sum"
  done
  say "What the server logged"
  show <"$work/www/access.log"
  cut -d: -f1 "$work/www/access.log" >"$work/clients"
  check "it saw four requests" test "$(wc -l <"$work/clients")" -eq 4
  check "all of them came from 203.0.113.2" all_equal "$work/clients" 203.0.113.2
}

iperf3_report() {
  /usr/bin/python3 - "$work/iperf3.json" <<'EOF'
import json, sys
total = json.load(open(sys.argv[1]))["end"]["sum"]
print("{packets} datagrams, {lost_packets} lost, {rate:.0f} Mbit/s".format(
    rate=total["bits_per_second"] / 1e6, **total))
# Six seconds at 20 Mbit/s are 10,714 datagrams of 1,400 bytes.
sys.exit(total["packets"] < 10000 or total["lost_packets"] * 100 > total["packets"])
EOF
}

reload_under_load() {
  local before after report
  at www iperf3 -s -D -I "$work/iperf3.pid" >/dev/null
  wait_for 5 listens www 5201
  at h1 iperf3 -c 203.0.113.9 -u -b 20M -l 1400 -t 6 --json >"$work/iperf3.json" &
  report=$!
  sleep 1.5
  before=$(drops)
  cat >>"$work/natgate.toml" <<'EOF'

[[port-forward]]
in = "wan0"
dst = "203.0.113.1"
proto = "tcp"
dport = "8082"
to = "10.0.0.12:80"
EOF
  check "natgate took a configuration with one more port forward" ask reload
  check "the new forward, to h2, works at once" at www curl -fsS --max-time 5 -o "$work/h2.page" http://203.0.113.1:8082/
  check "it is h2's page" grep -q "host h2" "$work/h2.page"
  check "iperf3 finished" wait "$report"
  after=$(drops)
  check "packets natgate dropped, before and after: $before and $after" test "$before" = "$after"
  check "iperf3 agrees (its own sockets may lose a little on a busy machine)" iperf3_report
  show <"$work/check.log"
}

stop_gateway() {
  local code=0
  kill -TERM "$gateway_pid"
  wait "$gateway_pid" || code=$?
  check "SIGTERM ended it with exit code 0 (was $code)" test "$code" -eq 0
}

[ "$(id -u)" -eq 0 ] || { echo "demo: network namespaces need root (run: sudo make demo)" >&2; exit 1; }
pids=()

say "A private network of four hosts, a gateway, a public server"
build_network
for host in "${hosts[@]}"; do
  n=$((10 + ${host#h}))
  web "$host" "10.0.0.$n"
  echo "this is host $host" >"$work/$host/root/index.html"
  wait_for 5 listens "$host" 80
done
web www 203.0.113.9
head -c 20000000 /dev/urandom >"$work/www/root/index.html"
wait_for 5 listens www 80
ip netns list | grep -o "$p-[a-z0-9]*" | sort | xargs echo "  namespaces:"

say "natgate starts with this configuration"
start_gateway

say "Every host fetches 20 MB from the public server, all at once"
browse

say "A port forward: the server, out there, reaches h1 behind the gateway"
check "http://203.0.113.1:8080/ answers" at www curl -fsS --max-time 5 -o "$work/h1.page" http://203.0.113.1:8080/
check "it is h1's page" grep -q "host h1" "$work/h1.page"

say "natgate show sessions"
ask show sessions >"$work/sessions" || fail "show sessions"
head -n 12 "$work/sessions" | show
check "the hosts' sessions are listed" grep -q '10\.0\.0\.1[1-4]' "$work/sessions"
say "natgate show pools"
ask show pools >"$work/pools" || fail "show pools"
show <"$work/pools"
check "the pool is listed" grep -qw public "$work/pools"

say "A new configuration in the middle of an iperf3 run"
reload_under_load

# After that, since natgate keeps a SYN nobody asked for, and drops it only six seconds later.
say "A port nobody forwards"
check "203.0.113.1:8081 stays closed" test "$(at www curl -s --max-time 2 http://203.0.113.1:8081/)" = ""

say "A scrape of /metrics"
check "http://127.0.0.1:9464/metrics answers" at gw curl -fsS -o "$work/metrics" http://127.0.0.1:9464/metrics
grep -E '^natgate_(sessions|pool|port_|drops|packets|reload|build)' "$work/metrics" | head -n 16 | show || true
check "promtool finds nothing to criticise" bash -c "promtool check metrics <'$work/metrics'"

say "The end"
stop_gateway
if [ "$failures" -gt 0 ]; then
  printf '\n\033[31m%s\033[0m\n' "demo: $failures checks failed; natgate's log:"
  show <"$work/natgate.log"
  exit 1
fi
printf '\ndemo: everything shown is true\n'
