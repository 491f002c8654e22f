//! Application helpers with real programs: FTP in all its modes from either side, and TFTP.

use crate::lab::{Lab, Setup, on_natgate};
use crate::ns::Ns;
use crate::servers;

/// Clients inside and outside, a server inside, and nothing else let in.
const HELPED: Setup = Setup {
    kernel: None,
    natgate: r#"
        [[source-nat]]
        out = "wan0"
        via = "interface"
        [[port-forward]]
        in = "wan0"
        dport = "2121"
        to = "10.0.0.3:21"
        [filter]
        default = "drop"
        [[filter.rule]]
        in = "lan0"
        action = "accept"
    "#,
    ..Setup::PLAIN
};

/// What clients are told to do: active and passive, by the old commands and by the extended ones.
const MODES: [&str; 4] = [
    "--disable-epsv",
    "--ftp-pasv",
    "--ftp-port - --disable-eprt",
    "--ftp-port -",
];

/// Fetches a file of a megabyte, stores one, and compares.
fn moves_files(lab: &Lab, client: &Ns, from: &str, url: &str, modes: &[&str]) {
    let dir = lab.dir.path().display();
    for mode in modes {
        let curl = format!("curl -gfsS --max-time 20 --interface {from} {mode}");
        client.sh(&format!("rm -f {dir}/back {dir}/ftp/up/stored"));
        client.sh(&format!(
            "{curl} -o {dir}/back {url}/file && cmp {dir}/back {dir}/ftp/file"
        ));
        client.sh(&format!(
            "{curl} -T {dir}/ftp/file {url}/up/stored && cmp {dir}/ftp/up/stored {dir}/ftp/file"
        ));
    }
}

#[test]
fn ftp_clients_inside_fetch_and_store_in_every_mode() {
    on_natgate(&HELPED, |lab| {
        let _server = servers::vsftpd(lab, &lab.outside, "203.0.113.9");
        moves_files(lab, &lab.inside, "10.0.0.2", "ftp://203.0.113.9", &MODES);
        let dir = lab.dir.path().display();
        for passive in ["on", "off"] {
            lab.inside.sh(&format!(
                "rm -f {dir}/back && HOME={dir} timeout 30 lftp -e 'set net:socket-bind-ipv4 10.0.0.4; \
                 set ftp:passive-mode {passive}; get -O {dir} file -o back; ls; ls; bye' ftp://203.0.113.9 \
                 && cmp {dir}/back {dir}/ftp/file"
            ));
        }
    });
}

#[test]
fn an_ftp_server_inside_serves_the_outside_in_every_mode() {
    on_natgate(&HELPED, |lab| {
        let _server = servers::vsftpd(lab, &lab.inside, "10.0.0.3");
        let url = "ftp://203.0.113.1:2121";
        moves_files(lab, &lab.outside, "203.0.113.10", url, &MODES);
    });
}

#[test]
fn tftp_works_where_it_is_helped() {
    let setup = Setup {
        natgate: r#"
            [[pool]]
            name = "wan"
            addresses = ["203.0.113.20"]
            helpers = ["tftp"]
            [[source-nat]]
            out = "wan0"
            via = "pool:wan"
        "#,
        ..HELPED
    };
    on_natgate(&setup, |lab| {
        let _server = servers::tftpd(lab, "203.0.113.9");
        let dir = lab.dir.path().display();
        lab.inside.sh(&format!(
            "cd {dir} && rm -f file && timeout 20 tftp -m binary 203.0.113.9 -c get file && cmp file {dir}/tftp/file"
        ));
    });
}

/// Over IPv6 there are the extended commands alone: passive and active.
const MODES_V6: [&str; 2] = ["--ftp-pasv", "--ftp-port -"];

#[test]
fn ftp_works_over_ipv6_from_either_side() {
    let setup = Setup {
        natgate: r#"
            [[source-nat]]
            out = "wan0"
            via = "interface"
            [[port-forward]]
            in = "wan0"
            dst = "2001:db8::1"
            dport = "2121"
            to = "[fd00:1::3]:21"
            [filter]
            default = "drop"
            [[filter.rule]]
            in = "lan0"
            action = "accept"
        "#,
        ..HELPED
    };
    on_natgate(&setup, |lab| {
        // No way to the inside but through the translator.
        lab.outside.ip("route del fd00:1::/64 via 2001:db8::1");
        let outside = servers::vsftpd(lab, &lab.outside, "2001:db8::9");
        let url = "ftp://[2001:db8::9]";
        moves_files(lab, &lab.inside, "fd00:1::2", url, &MODES_V6);
        drop(outside);
        let _inside = servers::vsftpd(lab, &lab.inside, "fd00:1::3");
        let url = "ftp://[2001:db8::1]:2121";
        moves_files(lab, &lab.outside, "2001:db8::9", url, &MODES_V6);
    });
}

#[test]
fn tftp_works_over_ipv6() {
    let setup = Setup {
        natgate: r#"
            [[pool]]
            name = "wan"
            addresses = ["2001:db8::20"]
            helpers = ["tftp"]
            [[source-nat]]
            out = "wan0"
            via = "pool:wan"
        "#,
        ..HELPED
    };
    on_natgate(&setup, |lab| {
        lab.outside.ip("route del fd00:1::/64 via 2001:db8::1");
        let _server = servers::tftpd(lab, "2001:db8::9");
        let dir = lab.dir.path().display();
        lab.inside.sh(&format!(
            "cd {dir} && rm -f file && timeout 20 tftp -6 -m binary 2001:db8::9 -c get file && cmp file {dir}/tftp/file"
        ));
    });
}
