//! The reference gateway: the Linux kernel's own NAT in the middle namespace.

use std::sync::Arc;

use crate::lab::{Gateway, Setup};
use crate::ns::Ns;

/// The kernel as a gateway.
pub struct Kernel {
    ns: Arc<Ns>,
    wan: Vec<String>,
}

/// Conntrack switches itself off with the last stateful rule, and flows then leave untranslated; one rule
/// that never matches keeps it on while a test exchanges the others.
const SENTINEL: &str = "
table ip sentinel {
  chain post {
    type nat hook postrouting priority 110
    oifname none9 masquerade
  }
}
";

impl Kernel {
    /// Gives the gateway its addresses, turns forwarding on and loads the ruleset.
    pub fn start(ns: Arc<Ns>, setup: &Setup) -> Kernel {
        let wan = Vec::new();
        let mut kernel = Kernel { ns, wan };
        kernel.ns.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                   net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 \
                   net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
                   net.ipv4.conf.lan0.rp_filter=0 net.ipv4.conf.wan0.rp_filter=0");
        kernel
            .ns
            .sh("ip addr add 10.0.0.1/24 dev lan0; ip -6 addr add fd00:1::1/64 dev lan0 nodad");
        if setup.second_uplink {
            kernel
                .ns
                .sh("sysctl -qw net.ipv4.conf.wan1.rp_filter=0; ip addr add 192.0.2.1/24 dev wan1");
        }
        kernel.reload(setup);
        kernel
    }

    /// Adds and removes addresses of `wan0` until they are those of `setup`.
    fn readdress(&mut self, setup: &Setup) {
        let all = setup.wan.iter().chain(setup.kernel_extra);
        let wanted: Vec<String> = all.map(|a| (*a).to_string()).collect();
        for gone in self.wan.iter().filter(|a| !wanted.contains(a)) {
            self.ns.sh(&format!("ip addr del {gone} dev wan0"));
        }
        for new in wanted.iter().filter(|a| !self.wan.contains(a)) {
            let dad = if new.contains(':') { "nodad" } else { "" };
            self.ns.sh(&format!("ip addr add {new} dev wan0 {dad}"));
        }
        self.wan = wanted;
    }
}

impl Gateway for Kernel {
    fn name(&self) -> String {
        "the kernel".to_string()
    }

    fn reload(&mut self, setup: &Setup) {
        self.readdress(setup);
        if setup.wan.iter().any(|a| a.starts_with("203.0.113.")) {
            self.ns.sh("ip route replace default via 203.0.113.9");
        }
        if setup.wan.iter().any(|a| a.contains(':')) {
            self.ns.sh("ip -6 route replace default via 2001:db8::9");
        }
        let rules = setup.kernel.unwrap_or_default();
        self.ns
            .nft(&format!("flush ruleset\n{SENTINEL}\n{rules}\n"));
    }

    fn restart(&mut self) {
        // The kernel's NAT has no process: forgetting every connection is its restart.
        self.ns.sh("conntrack -F 2>/dev/null");
    }

    fn finish(&mut self) {}
}
