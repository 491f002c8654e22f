//! Probes with ordinary sockets, in the notation of the acceptance tests.
//!
//! ```text
//! UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply
//! TCP out 203.0.113.9:0 > 203.0.113.1:8022 listener in@10.0.0.2:22 => seen 203.0.113.9:*, reply
//! ```
//!
//! One datagram or connection goes from that namespace, address and port (0: any) to the destination. An
//! echo service there, in the other namespace unless `listener` names another, records the source it saw
//! and answers. `seen –` means nothing arrived, `*` stands for any port. What the prober got is `reply`,
//! `timeout`, `refused` (ECONNREFUSED) or `unreachable` (any other errno; IP_RECVERR is on).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::lab::Lab;
use crate::ns::Ns;

/// How long a prober waits for an answer.
const TIMEOUT: Duration = Duration::from_millis(1000);

/// How often an idle echo service looks whether it should end.
const POLL: Duration = Duration::from_millis(10);

/// The transport of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    /// One datagram.
    Udp,
    /// One connection.
    Tcp,
}

/// What the prober got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The echo, unchanged, from the address that was asked.
    Reply,
    /// Nothing in time.
    Timeout,
    /// An error, reported by the gateway or the other host.
    Error(Errno),
}

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The source the echo service saw, if anything arrived.
    pub seen: Option<SocketAddr>,
    /// What came back.
    pub answer: Answer,
}

impl Observation {
    /// The source the service saw, of a probe that must have been answered.
    pub fn answered(self) -> SocketAddr {
        assert_eq!(self.answer, Answer::Reply, "seen: {:?}", self.seen);
        self.seen.expect("a reply implies that something arrived")
    }

    /// The port of [`Observation::answered`].
    pub fn port(self) -> u16 {
        self.answered().port()
    }

    /// Whether nothing arrived.
    pub fn nothing_arrived(self) -> bool {
        self.seen.is_none()
    }
}

/// A probe as written: where from, where to, where the echo service is.
struct Probe {
    proto: Proto,
    role: String,
    from: SocketAddr,
    to: SocketAddr,
    listener: (String, SocketAddr),
}

impl Probe {
    fn parse(text: &str) -> Probe {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (proto, role, from, to) = match words[..] {
            [proto, role, from, ">", to, ..] => (proto, role, from, to),
            _ => panic!("not a probe: {text:?}"),
        };
        let proto = match proto {
            "UDP" => Proto::Udp,
            "TCP" => Proto::Tcp,
            _ => panic!("not a protocol: {text:?}"),
        };
        let to: SocketAddr = address(to);
        let listener = match words[5..] {
            [] => {
                let other = if role == "in" { "out" } else { "in" };
                (other.to_string(), to)
            }
            ["listener", place] => {
                let (role, at) = place.split_once('@').expect("listener ROLE@ADDRESS:PORT");
                (role.to_string(), address(at))
            }
            _ => panic!("not a probe: {text:?}"),
        };
        Probe {
            proto,
            role: role.to_string(),
            from: address(from),
            to,
            listener,
        }
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is not ADDRESS:PORT"))
}

impl Lab {
    /// Makes one probe and returns what was observed.
    pub fn probe(&self, text: &str) -> Observation {
        let probe = Probe::parse(text);
        let echo = self.echo(&probe.listener.0, probe.proto, probe.listener.1);
        let ns = self.ns(&probe.role);
        match probe.proto {
            Proto::Udp => Held::open(ns, probe.from).ask(probe.to, &echo),
            Proto::Tcp => connect(ns, probe.from, probe.to, &echo),
        }
    }

    /// A TCP probe that may end at any of several services (`ROLE@ADDRESS:PORT`): which one, if any?
    pub fn probe_among(&self, text: &str, services: &[&str]) -> Option<usize> {
        let probe = Probe::parse(text);
        let open = |place: &&str| {
            let (role, at) = place.split_once('@').expect("ROLE@ADDRESS:PORT");
            self.echo(role, Proto::Tcp, address(at))
        };
        let echoes: Vec<Arc<Echo>> = services.iter().map(open).collect();
        let payload = token();
        let mut stream = open_stream(self.ns(&probe.role), probe.from, probe.to).ok()?;
        exchange(&mut stream, &payload);
        echoes.iter().position(|e| e.source_of(&payload).is_some())
    }

    /// The same towards a port where nobody listens: what does the prober get?
    pub fn probe_closed(&self, text: &str) -> Answer {
        let probe = Probe::parse(text);
        let ns = self.ns(&probe.role);
        match probe.proto {
            Proto::Udp => {
                let held = Held::open(ns, probe.from);
                held.send(b"anyone there?", probe.to);
                held.receive(b"no answer expected", probe.to)
            }
            Proto::Tcp => match open_stream(ns, probe.from, probe.to) {
                Ok(_) => Answer::Reply,
                Err(answer) => answer,
            },
        }
    }

    /// Makes the probe left of `=>` and asserts the observation right of it.
    pub fn expect(&self, text: &str) {
        let (probe, expected) = text.split_once("=>").expect("PROBE => seen …, answer");
        let got = self.probe(probe);
        let (seen, answer) = expected.split_once(',').expect("seen …, answer");
        let seen = seen.trim().strip_prefix("seen ").expect("seen …").trim();
        let seen_as_expected = match got.seen {
            None => seen == "–",
            Some(at) => match seen.strip_suffix(":*") {
                Some(host) => at
                    .to_string()
                    .rsplit_once(':')
                    .is_some_and(|(h, _)| h == host),
                None => at.to_string() == seen,
            },
        };
        let answered_as_expected = match answer.trim() {
            "reply" => got.answer == Answer::Reply,
            "timeout" => got.answer == Answer::Timeout,
            "refused" => got.answer == Answer::Error(Errno::ECONNREFUSED),
            "unreachable" => matches!(got.answer, Answer::Error(e) if e != Errno::ECONNREFUSED),
            "no reply" => got.answer != Answer::Reply,
            other => panic!("{other:?} is not an answer"),
        };
        assert!(
            seen_as_expected && answered_as_expected,
            "through {}: {text}\n  but observed {got:?}",
            self.gateway_name()
        );
    }

    /// HOLD: a socket that stays open, to send several datagrams from.
    pub fn hold(&self, role: &str, from: &str) -> Held {
        Held::open(self.ns(role), address(from))
    }

    /// One datagram of a held socket to an echo service in the other namespace.
    pub fn ask(&self, held: &Held, to: &str) -> Observation {
        let other = if held.role_is_inside { "out" } else { "in" };
        let to = address(to);
        held.ask(to, &self.echo(other, Proto::Udp, to))
    }
}

/// A UDP socket that stays open over several datagrams.
pub struct Held {
    socket: UdpSocket,
    role_is_inside: bool,
}

impl Held {
    fn open(ns: &Ns, from: SocketAddr) -> Held {
        let socket = ns.enter(|| UdpSocket::bind(from));
        let socket = socket.unwrap_or_else(|why| panic!("bind {from}: {why}"));
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        if from.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap();
        }
        Held {
            socket,
            role_is_inside: ns.name().ends_with("-in"),
        }
    }

    fn ask(&self, to: SocketAddr, echo: &Echo) -> Observation {
        self.ask_with(&token(), to, echo)
    }

    /// Sends `payload` (which must be unique) and waits for its echo.
    pub fn ask_with(&self, payload: &[u8], to: SocketAddr, echo: &Echo) -> Observation {
        self.send(payload, to);
        let answer = self.receive(payload, to);
        Observation {
            seen: echo.source_of(payload),
            answer,
        }
    }

    /// Sends one datagram.
    pub fn send(&self, payload: &[u8], to: SocketAddr) {
        // An error that an earlier datagram caused is reported, and cleared, by whatever call comes next.
        if self.socket.send_to(payload, to).is_err() {
            self.socket.send_to(payload, to).expect("a datagram leaves");
        }
    }

    /// The next datagram from there, if one comes.
    pub fn next(&self, from: SocketAddr) -> Option<Vec<u8>> {
        let deadline = Instant::now() + TIMEOUT;
        let mut buffer = vec![0; 65536];
        while Instant::now() < deadline {
            if let Ok((length, source)) = self.socket.recv_from(&mut buffer)
                && source == from
            {
                return Some(buffer[..length].to_vec());
            }
        }
        None
    }

    /// Waits for `payload` to come back from where it was sent.
    pub fn receive(&self, payload: &[u8], from: SocketAddr) -> Answer {
        let deadline = Instant::now() + TIMEOUT;
        let mut buffer = vec![0; 65536];
        while Instant::now() < deadline {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, source)) if source == from && buffer[..length] == *payload => {
                    return Answer::Reply;
                }
                // A late answer to an earlier datagram.
                Ok(_) => {}
                Err(why) => match why.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Answer::Timeout,
                    _ => return Answer::Error(errno(&why)),
                },
            }
        }
        Answer::Timeout
    }
}

fn errno(why: &std::io::Error) -> Errno {
    Errno::from_raw(why.raw_os_error().unwrap_or(0))
}

/// A payload that no other probe of this process has.
fn token() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("probe {number}\n").into_bytes()
}

/// Opens a TCP connection from a bound address, or says what came instead.
pub fn open_stream(ns: &Ns, from: SocketAddr, to: SocketAddr) -> Result<TcpStream, Answer> {
    let socket = ns.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let bound = socket.bind(&from.into());
        bound.unwrap_or_else(|why| panic!("bind {from}: {why}"));
        socket
    });
    match socket.connect_timeout(&to.into(), TIMEOUT) {
        Ok(()) => Ok(socket.into()),
        Err(why) if why.kind() == ErrorKind::TimedOut => Err(Answer::Timeout),
        Err(why) => Err(Answer::Error(errno(&why))),
    }
}

fn connect(ns: &Ns, from: SocketAddr, to: SocketAddr, echo: &Echo) -> Observation {
    let payload = token();
    let answer = match open_stream(ns, from, to) {
        Err(answer) => answer,
        Ok(mut stream) => exchange(&mut stream, &payload),
    };
    Observation {
        seen: echo.source_of(&payload),
        answer,
    }
}

fn exchange(stream: &mut TcpStream, payload: &[u8]) -> Answer {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut back = Vec::new();
    let result = stream
        .write_all(payload)
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .and_then(|()| stream.read_to_end(&mut back));
    match result {
        Ok(_) if back == payload => Answer::Reply,
        Ok(_) => panic!("the echo of {payload:?} is {back:?}"),
        Err(why) if why.kind() == ErrorKind::WouldBlock => Answer::Timeout,
        Err(why) => Answer::Error(errno(&why)),
    }
}

/// Payloads with the source they came from.
type Arrivals = Arc<Mutex<Vec<(Vec<u8>, SocketAddr)>>>;

/// An echo service that remembers who asked what.
pub struct Echo {
    arrivals: Arrivals,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Opens the service on an address of the namespace.
    pub fn open(ns: &Ns, proto: Proto, at: SocketAddr) -> Echo {
        let arrivals = Arrivals::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (record, until) = (Arc::clone(&arrivals), Arc::clone(&stop));
        let kind = if proto == Proto::Udp {
            Type::DGRAM
        } else {
            Type::STREAM
        };
        let socket = ns.enter(|| {
            let socket = Socket::new(Domain::for_address(at), kind, None).unwrap();
            if proto == Proto::Tcp {
                socket.set_reuse_address(true).unwrap();
            }
            let bound = socket.bind(&at.into());
            bound.unwrap_or_else(|why| panic!("echo service at {at}: {why}"));
            socket
        });
        let thread = match proto {
            Proto::Udp => std::thread::spawn(move || serve_udp(&socket.into(), &record, &until)),
            Proto::Tcp => {
                socket.listen(128).unwrap();
                socket.set_nonblocking(true).unwrap();
                std::thread::spawn(move || serve_tcp(&socket.into(), &record, &until))
            }
        };
        Echo {
            arrivals,
            stop,
            thread: Some(thread),
        }
    }

    /// Where this payload came from, waiting for it a while: a capture sees a packet before the service does.
    pub fn arrival_of(&self, payload: &[u8]) -> Option<SocketAddr> {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            let source = self.source_of(payload);
            if source.is_some() {
                return source;
            }
            std::thread::sleep(POLL);
        }
        None
    }

    /// Where this payload came from, if it has arrived.
    pub fn source_of(&self, payload: &[u8]) -> Option<SocketAddr> {
        let arrivals = self.arrivals.lock().unwrap();
        let found = arrivals.iter().rev().find(|(p, _)| p == payload);
        found.map(|(_, source)| *source)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve_udp(socket: &UdpSocket, arrivals: &Arrivals, stop: &AtomicBool) {
    socket.set_read_timeout(Some(POLL)).unwrap();
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let payload = &buffer[..length];
            arrivals.lock().unwrap().push((payload.to_vec(), source));
            let _ = socket.send_to(payload, source);
        }
    }
}

fn serve_tcp(listener: &std::net::TcpListener, arrivals: &Arrivals, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, source)) = listener.accept() else {
            std::thread::sleep(POLL);
            continue;
        };
        let arrivals = Arc::clone(arrivals);
        // Probes are short; the thread ends with its connection.
        std::thread::spawn(move || {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut payload = Vec::new();
            let _ = stream.read_to_end(&mut payload);
            arrivals.lock().unwrap().push((payload.clone(), source));
            let _ = stream.write_all(&payload);
        });
    }
}
