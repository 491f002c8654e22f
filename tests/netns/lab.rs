//! The lab: in – gateway – out, and the loop over the gateways under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::Kernel;
use crate::natgate::Natgate;
use crate::ns::{self, Ns};
use crate::probe::{Echo, Proto};

/// What the middle namespace is to do, said once for each kind of gateway.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// nftables commands for the kernel gateway; `None` makes the test natgate's alone.
    pub kernel: Option<&'static str>,
    /// TOML appended to the lab's base configuration.
    pub natgate: &'static str,
    /// TOML of natgate's ports `p-lan` and `p-wan`; `MTU` and `DIR` stand for the MTU of the wire and the scratch directory.
    pub ports: &'static str,
    /// Commands of `ip` that make more links in the middle namespace before natgate starts.
    pub links: &'static str,
    /// Addresses of `wan0`, the primary one first.
    pub wan: &'static [&'static str],
    /// Addresses the kernel must hold on `wan0` to answer ARP for them; natgate answers for its pools.
    pub kernel_extra: &'static [&'static str],
    /// MTU of the wire between the gateway and `out`.
    pub wan_mtu: u16,
    /// A second uplink `wan1` (192.0.2.1/24) to `out` (192.0.2.9).
    pub second_uplink: bool,
    /// TOML of natgate's whole network, instead of the lab's base configuration and all of the above.
    pub whole: Option<&'static str>,
}

impl Setup {
    /// Ports that change, helped in both families; a server at the hosts `.3` on port `inside`, reached at `public`; and
    /// nothing else let in.
    pub fn helped(helper: &str, proto: &str, public: u16, inside: u16) -> Setup {
        let mut natgate = String::new();
        for (name, any, address, server) in [
            ("four", "0.0.0.0/0", "203.0.113.20", "10.0.0.3"),
            ("six", "::/0", "2001:db8::20", "[fd00:1::3]"),
        ] {
            natgate += &format!(
                r#"
                [[pool]]
                name = "{name}"
                addresses = ["{address}"]
                select = "random"
                helpers = ["{helper}"]
                [[source-nat]]
                src = "{any}"
                out = "wan0"
                via = "pool:{name}"
                [[port-forward]]
                in = "wan0"
                dst = "{address}"
                proto = "{proto}"
                dport = "{public}"
                to = "{server}:{inside}"
                "#
            );
        }
        natgate += r#"
            [filter]
            default = "drop"
            [[filter.rule]]
            in = "lan0"
            action = "accept"
            "#;
        Setup {
            kernel: None,
            natgate: Box::leak(natgate.into_boxed_str()),
            ..Setup::PLAIN
        }
    }

    /// A gateway that only forwards.
    pub const PLAIN: Setup = Setup {
        kernel: Some(""),
        natgate: "",
        ports: r#"
            [[port]]
            name = "p-lan"
            device = "af_packet:lan0"
            [[port]]
            name = "p-wan"
            device = "af_packet:wan0"
            mtu = MTU
        "#,
        links: "",
        wan: &["203.0.113.1/24", "2001:db8::1/64"],
        kernel_extra: &[],
        wan_mtu: 1500,
        second_uplink: false,
        whole: None,
    };

    /// The commonest gateway: all IPv4 that leaves through `wan0` gets that interface's address.
    pub const MASQUERADE: Setup = Setup {
        kernel: Some(
            "table ip nat {
               chain post {
                 type nat hook postrouting priority 100
                 oifname wan0 masquerade
               }
             }",
        ),
        natgate: r#"
            [[source-nat]]
            name = "masquerade"
            src = "0.0.0.0/0"
            out = "wan0"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
}

/// A gateway in the middle namespace.
pub trait Gateway {
    /// What a failure message calls it.
    fn name(&self) -> String;
    /// Replaces the configuration while traffic runs.
    fn reload(&mut self, setup: &Setup);
    /// Ends it and starts it anew with the same configuration; sessions are lost.
    fn restart(&mut self);
    /// Checks that it is healthy and its books balance, then stops it.
    fn finish(&mut self);
    /// natgate itself, where a test needs more than any gateway has.
    fn natgate(&self) -> Option<&Natgate> {
        None
    }
}

/// Which gateway to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's own NAT.
    Kernel,
    /// natgate with this many workers.
    Natgate(usize),
}

/// Worker counts every natgate test runs with: results must not depend on them.
const WORKERS: [usize; 3] = [1, 2, 4];

/// The three namespaces and what runs in them.
///
/// Fields are dropped in order: sockets and the gateway before the namespaces, the turn last.
pub struct Lab {
    listeners: Mutex<BTreeMap<(String, Proto, SocketAddr), Arc<Echo>>>,
    gateway: Box<dyn Gateway>,
    /// The private network.
    pub inside: Ns,
    /// Where the gateway runs.
    pub middle: Arc<Ns>,
    /// The public network.
    pub outside: Ns,
    /// Scratch directory for configurations and served files.
    pub dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// One lab at a time: the machines that run this have few cores and timeouts are real.
static TURN: Mutex<()> = Mutex::new(());

impl Lab {
    /// Builds the network and starts the gateway in its middle.
    pub fn start(kind: Kind, setup: &Setup) -> Lab {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            nix::unistd::geteuid().is_root(),
            "the namespace tests need root (run `sudo make test`)"
        );
        ns::remove_leftovers();
        let (inside, outside) = (Ns::create("in"), Ns::create("out"));
        let middle = Arc::new(Ns::create("gw"));
        build_network(&inside, &middle, &outside, setup);
        let dir = tempfile::tempdir().unwrap();
        let gateway: Box<dyn Gateway> = match kind {
            Kind::Kernel => Box::new(Kernel::start(Arc::clone(&middle), setup)),
            Kind::Natgate(workers) => Box::new(Natgate::start(
                Arc::clone(&middle),
                dir.path(),
                workers,
                setup,
            )),
        };
        Lab {
            listeners: Mutex::default(),
            gateway,
            inside,
            middle,
            outside,
            dir,
            _turn: turn,
        }
    }

    /// Whether the kernel's NAT is in the middle.
    pub fn is_kernel(&self) -> bool {
        self.gateway.natgate().is_none()
    }

    /// What failure messages call the gateway.
    pub fn gateway_name(&self) -> String {
        self.gateway.name()
    }

    /// natgate; for tests that run on nothing else.
    pub fn natgate(&self) -> &Natgate {
        self.gateway.natgate().expect("natgate is in the middle")
    }

    /// Replaces the gateway's configuration while traffic runs.
    pub fn reload(&mut self, setup: &Setup) {
        self.gateway.reload(setup);
    }

    /// Ends the gateway and starts it anew; sessions are lost.
    pub fn restart(&mut self) {
        self.gateway.restart();
    }

    /// The namespace a test calls "in" or "out".
    pub fn ns(&self, role: &str) -> &Ns {
        match role {
            "in" => &self.inside,
            "out" => &self.outside,
            "gw" => &self.middle,
            _ => panic!("no namespace is called {role:?}"),
        }
    }

    /// The echo service at an address, opened on first use and kept until the lab ends.
    pub fn echo(&self, role: &str, proto: Proto, at: SocketAddr) -> Arc<Echo> {
        let mut listeners = self.listeners.lock().unwrap();
        Arc::clone(
            listeners
                .entry((role.to_string(), proto, at))
                .or_insert_with(|| Arc::new(Echo::open(self.ns(role), proto, at))),
        )
    }

    /// Closes every echo service, so that their ports answer "refused" again.
    pub fn close_listeners(&self) {
        self.listeners.lock().unwrap().clear();
    }

    /// Ends a test that passed: the gateway's books must balance and it must stop cleanly.
    fn finish(mut self) {
        self.close_listeners();
        self.gateway.finish();
    }
}

/// Runs a test through the kernel's NAT and through natgate with every number of workers.
pub fn same_on_both(setup: &Setup, test: impl Fn(&mut Lab)) {
    assert!(setup.kernel.is_some(), "the kernel needs its ruleset");
    run_on(&[Kind::Kernel], setup, &test);
    on_natgate(setup, test);
}

/// Runs a test through natgate alone, with every number of workers.
pub fn on_natgate(setup: &Setup, test: impl Fn(&mut Lab)) {
    run_on(&WORKERS.map(Kind::Natgate), setup, &test);
}

/// Runs a test through natgate with this many workers: where queues are shared out among them.
pub fn on_workers(workers: usize, setup: &Setup, test: impl Fn(&mut Lab)) {
    run_on(&[Kind::Natgate(workers)], setup, &test);
}

/// Runs a test through the kernel and natgate with two workers: for long transfers, where a third and
/// fourth run would cost minutes and tell nothing new.
pub fn once_on_each(setup: &Setup, test: impl Fn(&mut Lab)) {
    if setup.kernel.is_some() {
        run_on(&[Kind::Kernel], setup, &test);
    }
    run_on(&[Kind::Natgate(2)], setup, &test);
}

fn run_on(kinds: &[Kind], setup: &Setup, test: &impl Fn(&mut Lab)) {
    let only = std::env::var("NATGATE_LAB").unwrap_or_default();
    for &kind in kinds {
        let family = if kind == Kind::Kernel {
            "kernel"
        } else {
            "natgate"
        };
        if !only.is_empty() && only != family {
            println!("NATGATE_LAB={only}: left out {kind:?}");
            continue;
        }
        println!("through {kind:?}");
        let mut lab = Lab::start(kind, setup);
        test(&mut lab);
        lab.finish();
    }
}

/// Creates the veth pairs, addresses and routes of the end hosts; the gateway's side stays bare.
fn build_network(inside: &Ns, middle: &Ns, outside: &Ns, setup: &Setup) {
    for host in [inside, middle, outside] {
        // Rate limits and duplicate address detection would only make observations depend on time.
        host.sysctl(&[
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.default.accept_ra=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.ip_forward=0",
        ]);
    }
    let gw = middle.name();
    inside.ip(&format!(
        "link add eth0 type veth peer name lan0 netns {gw}"
    ));
    outside.ip(&format!(
        "link add eth0 type veth peer name wan0 netns {gw}"
    ));
    inside.ip("link set eth0 up
               addr add 10.0.0.2/24 dev eth0
               addr add 10.0.0.3/24 dev eth0
               addr add 10.0.0.4/24 dev eth0
               addr add 10.0.0.5/24 dev eth0
               addr add fd00:1::2/64 dev eth0 nodad
               addr add fd00:1::3/64 dev eth0 nodad");
    let mtu = setup.wan_mtu;
    middle.ip(&format!("link set wan0 mtu {mtu}"));
    outside.ip(&format!("link set eth0 mtu {mtu}"));
    outside.ip("link set eth0 up
                addr add 203.0.113.9/24 dev eth0
                addr add 203.0.113.10/24 dev eth0
                addr add 203.0.113.11/24 dev eth0
                addr add 2001:db8::9/64 dev eth0 nodad
                addr add 198.51.100.5/32 dev lo
                addr add 172.16.5.5/32 dev lo
                addr add 192.168.7.5/32 dev lo
                addr add 10.99.0.5/32 dev lo
                addr add 169.254.7.7/32 dev lo
                addr add 100.64.3.3/32 dev lo
                addr add fd99::5/128 dev lo nodad");
    middle.ip("link set lan0 up
               link set wan0 up");
    if setup.second_uplink {
        outside.ip(&format!(
            "link add eth1 type veth peer name wan1 netns {gw}"
        ));
        outside.ip("link set eth1 up
                    addr add 192.0.2.9/24 dev eth1");
        middle.ip("link set wan1 up");
    }
    middle.ip(setup.links);
    inside.ip("route add default via 10.0.0.1
               route add default via fd00:1::1");
    // Untranslated packets must be seen and answered too.
    outside.ip("route add 10.0.0.0/24 via 203.0.113.1
                route add fd00:1::/64 via 2001:db8::1");
    switch_offloads_off(inside, &["eth0"]);
    let uplinks: &[&str] = if setup.second_uplink { &["1"] } else { &[] };
    let far: Vec<String> = ["0"]
        .iter()
        .chain(uplinks)
        .map(|n| format!("eth{n}"))
        .collect();
    let near: Vec<String> = ["0"]
        .iter()
        .chain(uplinks)
        .map(|n| format!("wan{n}"))
        .collect();
    switch_offloads_off(outside, &far);
    switch_offloads_off(middle, &near);
    switch_offloads_off(middle, &["lan0"]);
}

/// Makes a veth behave like a wire: whole frames no larger than the MTU, with finished checksums.
fn switch_offloads_off(ns: &Ns, devices: &[impl AsRef<str>]) {
    for device in devices {
        let device = device.as_ref();
        ns.sh(&format!(
            "ethtool -K {device} tx off rx off tso off gso off gro off"
        ));
    }
}
