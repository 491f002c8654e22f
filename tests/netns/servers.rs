//! Programs that serve in the lab: a process ends with its value.

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::ns::Ns;
use crate::probe::open_stream;

/// A server process.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts a program in a namespace.
    pub fn start(ns: &Ns, line: &str) -> Server {
        let mut command: Command = ns.command("sh");
        let child = command
            .args(["-c", &format!("exec {line}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Server { child }
    }

    /// Waits until something accepts connections at `at`, asked from its own namespace.
    pub fn wait_for_tcp(self, ns: &Ns, at: &str) -> Server {
        let at: SocketAddr = at.parse().unwrap();
        let from = SocketAddr::new(at.ip(), 0);
        let deadline = Instant::now() + Duration::from_secs(10);
        while open_stream(ns, from, at).is_err() {
            assert!(Instant::now() < deadline, "nothing listens at {at}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nginx in `out` at 203.0.113.9:80: serves files of `DIR/www` and stores what is PUT below `/up/`.
pub fn nginx(lab: &Lab) -> Server {
    let dir = lab.dir.path().display();
    lab.outside.sh(&format!(
        "mkdir -p {dir}/www/up {dir}/tmp && chmod 755 {dir}"
    ));
    let config = format!(
        "daemon off; master_process off; user root; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
         events {{ worker_connections 256; }}
         http {{
           access_log {dir}/access.log;
           client_body_temp_path {dir}/tmp; proxy_temp_path {dir}/tmp; fastcgi_temp_path {dir}/tmp;
           uwsgi_temp_path {dir}/tmp; scgi_temp_path {dir}/tmp;
           client_max_body_size 1g;
           server {{
             listen 203.0.113.9:80;
             root {dir}/www;
             location /up/ {{ dav_methods PUT; }}
           }}
         }}"
    );
    let file = lab.dir.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let line = format!("nginx -e {dir}/nginx.err -c {}", file.display());
    Server::start(&lab.outside, &line).wait_for_tcp(&lab.outside, "203.0.113.9:80")
}

/// dnsmasq in `out` at 203.0.113.9:53, which knows one name.
pub fn dnsmasq(lab: &Lab) -> Server {
    let line = "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
                --listen-address=203.0.113.9 --user=root --address=/natgate.test/198.51.100.77 \
                --txt-record=long.test,0123456789,0123456789";
    Server::start(&lab.outside, line).wait_for_tcp(&lab.outside, "203.0.113.9:53")
}

/// iperf3's server in `out` at 203.0.113.9:5201.
pub fn iperf3(lab: &Lab) -> Server {
    // No waiting by connecting: iperf3 would take the connection for a client.
    let server = Server::start(&lab.outside, "iperf3 -s -B 203.0.113.9");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !lab.outside.sh("ss -Hltn").contains("203.0.113.9:5201") {
        assert!(Instant::now() < deadline, "iperf3 does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// A STUN server in `out` with two addresses and two ports, as RFC 5780 needs for discovering behaviour.
pub fn stun(lab: &Lab) -> Server {
    let dir = lab.dir.path().display();
    let line = format!(
        "turnserver -n --no-auth --no-tls --no-dtls --no-cli --listening-port=3478 --alt-listening-port=3479 \
         --listening-ip=203.0.113.9 --listening-ip=203.0.113.10 --relay-ip=203.0.113.9 \
         --pidfile={dir}/turn.pid --userdb={dir}/turn.db --log-file={dir}/turn.log --simple-log"
    );
    Server::start(&lab.outside, &line).wait_for_tcp(&lab.outside, "203.0.113.10:3479")
}

/// vsftpd at port 21 of an address: serves `DIR/ftp` to anybody, and stores below `/up/`.
pub fn vsftpd(lab: &Lab, ns: &Ns, address: &str) -> Server {
    let dir = lab.dir.path().display();
    ns.sh(&format!(
        "mkdir -p {dir}/ftp/up {dir}/empty && chmod 755 {dir} {dir}/ftp && chown ftp {dir}/ftp/up \
         && head -c 1000000 /dev/urandom > {dir}/ftp/file && chmod 644 {dir}/ftp/file"
    ));
    let listen = match address.parse::<IpAddr>().unwrap() {
        IpAddr::V4(address) => format!("listen=YES\nlisten_address={address}"),
        IpAddr::V6(address) => format!("listen=NO\nlisten_ipv6=YES\nlisten_address6={address}"),
    };
    let config = format!(
        "{listen}\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
         anon_root={dir}/ftp\nwrite_enable=YES\nanon_upload_enable=YES\nanon_umask=022\n\
         connect_from_port_20=YES\nsecure_chroot_dir={dir}/empty\nseccomp_sandbox=NO\n\
         xferlog_enable=YES\nxferlog_file={dir}/vsftpd.log\n"
    );
    let file = lab.dir.path().join(format!("vsftpd.{address}.conf"));
    std::fs::write(&file, config).unwrap();
    let line = format!("vsftpd {}", file.display());
    let at = SocketAddr::new(address.parse().unwrap(), 21);
    Server::start(ns, &line).wait_for_tcp(ns, &at.to_string())
}

/// tftpd-hpa in `out` at port 69 of an address: serves `DIR/tftp`.
pub fn tftpd(lab: &Lab, address: &str) -> Server {
    let dir = lab.dir.path().display();
    lab.outside.sh(&format!(
        "mkdir -p {dir}/tftp && chmod 755 {dir} {dir}/tftp && head -c 100000 /dev/urandom > {dir}/tftp/file \
         && chmod 644 {dir}/tftp/file"
    ));
    let at = SocketAddr::new(address.parse().unwrap(), 69).to_string();
    let line = format!("in.tftpd --foreground --address {at} --secure {dir}/tftp");
    let server = Server::start(&lab.outside, &line);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !lab.outside.sh("ss -Hlun").contains(&at) {
        assert!(Instant::now() < deadline, "tftpd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}
