//! kube-proxy's chains, with and without `--expand-kube`.

use natgate::import::{Format, Import, Level, Options};

use crate::{body, has, input, lines, run, text};

fn options(expand_kube: bool) -> Options {
    Options {
        expand_kube,
        map: vec![("eth0".to_owned(), "wan0".to_owned())],
        ..Options::default()
    }
}

fn expanded(rules: &str) -> Import {
    run(Format::Iptables, &[text("f", rules)], &options(true))
}

#[test]
fn service_chains_become_services() {
    let done = run(Format::Iptables, &[input("kube.rules")], &options(true));
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
    has(
        &done,
        &[
            ":14: ok leads to what became services",
            ":15: ok leads to what became services",
            ":17: ok source-nat #1",
            ":18: ok KUBE-MARK-MASQ: part of the services",
            ":23: ok KUBE-SEP-DNSA: part of the services",
            ":28: ok service 10.96.0.10 port 53/udp, 2 backends",
            ":29: ok service 10.96.0.40 port 80/tcp, 1 backends",
            ":31: ok KUBE-SVC-DNS: part of the services",
            ":11: warn kube-proxy masquerades clients outside of the pod network 10.244.0.0/16; source = \"auto\" does so only where",
        ],
    );
    let services: Vec<&str> = body(&done)
        .split("\n\n")
        .filter(|table| table.starts_with("[[service]]"))
        .collect();
    assert_eq!(
        services,
        [
            "[[service]]\ncomment = \"kube-system/kube-dns:dns cluster IP\"\naddress = \"10.96.0.10\"\nproto = \"udp\"\nport = 53\nsource = \"auto\"\n\
             backends = [{ to = \"10.244.1.2:53\" }, { to = \"10.244.2.2:53\" }]\norigin = \"import:kube.rules:28\"",
            "[[service]]\ncomment = \"shop/web cluster IP\"\naddress = \"10.96.0.40\"\nproto = \"tcp\"\nport = 80\nsource = \"auto\"\n\
             affinity = \"client\"\naffinity_timeout = \"10800s\"\nbackends = [{ to = \"10.244.1.7:8080\" }]\norigin = \"import:kube.rules:29\"",
        ]
    );
    let without = run(Format::Iptables, &[input("kube.rules")], &options(false));
    has(
        &without,
        &[":14: reject E-GENERATED", ":28: reject E-GENERATED"],
    );
    assert!(!without.toml.contains("[[service]]"));
}

#[test]
fn services_speak_sctp_too() {
    let whole = input("kube.rules").text.replace("udp", "sctp");
    let done = expanded(&whole);
    has(
        &done,
        &["f:28: ok service 10.96.0.10 port 53/sctp, 2 backends"],
    );
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
    assert!(body(&done).contains("proto = \"sctp\"\nport = 53"));
}

#[test]
fn what_is_not_as_kube_proxy_writes_it() {
    let whole = input("kube.rules").text;
    for (theirs, other, why) in [
        (
            "--probability 0.50000000000",
            "--probability 0.3",
            "f:28: reject E-MATCH: KUBE-SVC-DNS: the endpoints are not drawn alike",
        ),
        (
            "--to-destination 10.244.2.2:53",
            "--to-destination 10.244.2.2-10.244.2.9:53",
            "f:28: reject E-GENERATED: line 32: KUBE-SEP-DNSB",
        ),
        (
            "-d 10.96.0.10/32 -p udp -m comment --comment \"kube-system/kube-dns:dns cluster IP\" -m udp --dport 53 -j KUBE-SVC-DNS",
            "-d 10.96.0.0/24 -p udp -m udp --dport 53 -j KUBE-SVC-DNS",
            "f:28: reject E-GENERATED: not as kube-proxy",
        ),
        (
            "-A KUBE-SVC-DNS ! -s",
            "-A KUBE-SVC-DNS -j ACCEPT\n-A KUBE-SVC-DNS ! -s",
            "f:28: reject E-GENERATED: line 30: not as kube-proxy",
        ),
        (
            "--dport 80 -j KUBE-SVC-WEB",
            "--dport 80 -j KUBE-FW-WEB",
            "f:29: reject E-GENERATED: KUBE-FW-WEB: only kube-proxy's cluster addresses",
        ),
    ] {
        let changed = whole.replacen(theirs, other, 1);
        assert_ne!(changed, whole, "{theirs}");
        has(&expanded(&changed), &[why]);
    }
}
