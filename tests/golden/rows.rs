//! The rows: what goes in. What must come out lies beside each row's configuration and is reviewed, not computed.

#[path = "rows_v6.rs"]
mod v6;

use std::path::Path;

use natgate::base::PortId;

pub use crate::common::row::Input;
use crate::common::row::{self, Row};
use crate::common::*;

/// One row to write.
pub struct Source {
    pub name: &'static str,
    pub rules: &'static str,
    pub input: fn() -> Input,
}

pub const MASQUERADE: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";

/// Short, because on tap ports time is real; a second of room on either side, because the machine may be busy.
const TIMEOUTS: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [timeouts]\nudp_unreplied = \"2s\"\nudp = \"4s\"\n";

const FORWARD: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"9000-9002\"\nto = \"10.0.0.2:20-22\"\n";

const STATIC: &str = "[[static-nat]]\nexternal = \"203.0.113.64/28\"\ninternal = \"10.0.0.0/28\"\ninterface = \"wan0\"\n";

const EXEMPT: &str = "[[exempt]]\ndst = [\"198.51.100.0/24\"]\nforce = [\"198.51.100.5/32\"]\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";

const FILTER: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"9000\"\nto = \"10.0.0.2:20\"\nallow = false\n\
    [filter]\ndefault = \"drop\"\n\
    [[filter.rule]]\nproto = \"tcp\"\ndport = \"25\"\naction = \"reject\"\nreject_with = \"tcp-reset\"\n\
    [[filter.rule]]\nproto = \"tcp\"\norig_dport = \"9000\"\naction = \"reject\"\nreject_with = \"icmp-host-prohibited\"\n\
    [[filter.rule]]\nsrc = \"10.0.0.3\"\naction = \"reject\"\n\
    [[filter.rule]]\nin = \"lan0\"\naction = \"accept\"\n";

const FILTER_V6: &str = "[filter]\ndefault = \"drop\"\n\
    [[filter.rule]]\nproto = \"tcp\"\ndport = \"25\"\naction = \"reject\"\nreject_with = \"tcp-reset\"\n\
    [[filter.rule]]\nsrc = \"fd00:1::3\"\naction = \"reject\"\nreject_with = \"icmp6-policy-fail\"\n\
    [[filter.rule]]\nin = \"lan0\"\naction = \"accept\"\n";

const STATELESS: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [filter]\ndefault = \"reject\"\nestablished = \"filter\"\n\
    [[filter.rule]]\nin = \"lan0\"\naction = \"accept\"\n";

/// One port for everybody, as long as their remotes differ.
const SHARED: &str = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nports = \"40000\"\nmapping = \"address-port\"\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";

/// Two VLANs with the addresses of the LAN.
const REALMS: &str = "[[interface]]\nname = \"red\"\nport = \"p-lan\"\nvlan = 10\nvrf = \"red\"\naddress = [\"10.0.0.1/24\"]\n\
    [[interface]]\nname = \"blue\"\nport = \"p-lan\"\nvlan = 20\nvrf = \"blue\"\naddress = [\"10.0.0.1/24\"]\n\
    [[route]]\nvrf = \"red\"\nprefix = \"0.0.0.0/0\"\nvia = \"203.0.113.9\"\ninterface = \"wan0\"\n\
    [[route]]\nvrf = \"blue\"\nprefix = \"0.0.0.0/0\"\nvia = \"203.0.113.9\"\ninterface = \"wan0\"\n\
    [[neighbour]]\ninterface = \"red\"\naddress = \"10.0.0.2\"\nmac = \"02:00:00:00:00:09\"\n\
    [[neighbour]]\ninterface = \"blue\"\naddress = \"10.0.0.2\"\nmac = \"02:00:00:00:00:09\"\n\
    [[pool]]\nname = \"red\"\naddresses = [\"203.0.113.20\"]\n\
    [[pool]]\nname = \"blue\"\naddresses = [\"203.0.113.21\"]\n\
    [[source-nat]]\nin = \"red\"\nvia = \"pool:red\"\n\
    [[source-nat]]\nin = \"blue\"\nvia = \"pool:blue\"\n\
    [[source-nat]]\nin = \"lan0\"\nvia = \"interface\"\n";

const SERVICES: &str = "[[service]]\nname = \"web\"\naddress = \"198.18.0.2\"\nport = 80\nunmatched = \"reject\"\nping = true\nbackends = [{ to = \"10.0.0.2:8080\" }]\n\
    [[service]]\nname = \"dns\"\naddress = \"198.18.0.2\"\nproto = \"udp\"\nport = 53\nlb = \"maglev\"\nbackends = [{ to = \"10.0.0.3\" }, { to = \"10.0.0.4\", weight = 2 }]\n\
    [[service]]\nname = \"node\"\naddress = \"interface:wan0\"\nkind = \"real\"\nport = 8081\nbackends = [{ to = \"10.0.0.2:8080\", source = \"10.0.0.1\" }]\n\
    [[service]]\nname = \"closed\"\naddress = \"198.18.0.3\"\nport = 80\nempty = \"reject\"\n";

/// Every row.
pub fn all() -> impl Iterator<Item = &'static Source> {
    ALL.iter()
        .chain(crate::rows_icmp::ALL)
        .chain(crate::rows_helpers::ALL)
        .chain(crate::rows_sctp::ALL)
        .chain(v6::ALL)
}

const ALL: &[Source] = &[
    Source {
        name: "masquerade-udp",
        rules: MASQUERADE,
        input: masquerade_udp,
    },
    Source {
        name: "masquerade-tcp",
        rules: MASQUERADE,
        input: masquerade_tcp,
    },
    Source {
        name: "masquerade-icmp",
        rules: MASQUERADE,
        input: masquerade_icmp,
    },
    Source {
        name: "udp-without-checksum",
        rules: MASQUERADE,
        input: udp_without_checksum,
    },
    Source {
        name: "fragments-out-of-order",
        rules: MASQUERADE,
        input: fragments,
    },
    Source {
        name: "icmp-error-about-a-flow",
        rules: MASQUERADE,
        input: icmp_about_flow,
    },
    Source {
        name: "ttl-expired",
        rules: MASQUERADE,
        input: ttl_expired,
    },
    Source {
        name: "filtered-and-unmapped",
        rules: MASQUERADE,
        input: filtered,
    },
    Source {
        name: "port-forward-shift",
        rules: FORWARD,
        input: forward,
    },
    Source {
        name: "port-forward-hairpin",
        rules: FORWARD,
        input: hairpin,
    },
    Source {
        name: "static-nat",
        rules: STATIC,
        input: static_nat,
    },
    Source {
        name: "exempt-longest-prefix",
        rules: EXEMPT,
        input: exempt,
    },
    Source {
        name: "services",
        rules: SERVICES,
        input: services,
    },
    Source {
        name: "router-only",
        rules: "",
        input: router,
    },
    Source {
        name: "filter",
        rules: FILTER,
        input: filter,
    },
    Source {
        name: "filter-ipv6",
        rules: FILTER_V6,
        input: filter_v6,
    },
    Source {
        name: "filter-judges-answers",
        rules: STATELESS,
        input: stateless,
    },
    Source {
        name: "broken-packets",
        rules: MASQUERADE,
        input: broken,
    },
    Source {
        name: "udp-timeout",
        rules: TIMEOUTS,
        input: timeout,
    },
    Source {
        name: "ports-shared-by-remotes",
        rules: SHARED,
        input: shared,
    },
    Source {
        name: "realms-with-the-same-addresses",
        rules: REALMS,
        input: realms,
    },
];

/// Writes every row's directory.
pub fn write_all(directory: &Path) {
    for source in all() {
        let config = row::config(source.rules);
        // As the files say it, and as the binary's worker polls: port by port.
        let mut input = (source.input)();
        input.sort_by_key(|(millis, port, _)| (*millis, port.0));
        let (output, counters) = row::run_core(&config, &input, 1);
        let row = Row {
            name: source.name.to_owned(),
            path: directory.join(source.name),
            config,
            input,
            output,
            counters: row::moved_in(&counters),
        };
        row.write();
    }
}

/// All at once.
pub fn now(frames: Vec<(PortId, Vec<u8>)>) -> Input {
    frames
        .into_iter()
        .map(|(port, frame)| (0, port, frame))
        .collect()
}

const A: End = ("10.0.0.2", 40000);
const B: End = ("10.0.0.3", 40001);
const REMOTE: End = ("203.0.113.9", 5000);
const OUTSIDE_A: End = ("203.0.113.1", 40000);

fn masquerade_udp() -> Input {
    now(vec![
        (LAN, udp(LAN, A, REMOTE, b"request")),
        (LAN, udp(LAN, B, REMOTE, b"another host")),
        (
            LAN,
            udp(
                LAN,
                A,
                ("203.0.113.10", 5001),
                b"another remote, same port outside",
            ),
        ),
        (WAN, udp(WAN, REMOTE, OUTSIDE_A, b"answer")),
        (
            WAN,
            udp(WAN, REMOTE, ("203.0.113.1", 40001), b"answer to the other"),
        ),
    ])
}

fn shared() -> Input {
    let other = ("203.0.113.10", 5000);
    let public = ("203.0.113.20", 40000);
    now(vec![
        (LAN, udp(LAN, ("10.0.0.2", 1), REMOTE, b"a port")),
        (LAN, udp(LAN, ("10.0.0.2", 2), other, b"the same port")),
        (
            LAN,
            udp(
                LAN,
                ("10.0.0.2", 3),
                REMOTE,
                b"no port is left for this remote",
            ),
        ),
        (LAN, tcp(LAN, ("10.0.0.2", 3), REMOTE, "S")),
        (WAN, udp(WAN, REMOTE, public, b"to 1")),
        (WAN, udp(WAN, other, public, b"to 2")),
        (WAN, udp(WAN, ("203.0.113.11", 5000), public, b"to nobody")),
    ])
}

/// The frame with a VLAN tag.
fn tagged(vlan: u8, mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0, 0, vlan]);
    frame
}

fn realms() -> Input {
    let call = |text: &[u8]| udp(LAN, A, REMOTE, text);
    now(vec![
        (LAN, tagged(10, call(b"red"))),
        (LAN, tagged(20, call(b"blue"))),
        (LAN, call(b"main")),
        (WAN, udp(WAN, REMOTE, ("203.0.113.21", 40000), b"to blue")),
        (WAN, udp(WAN, REMOTE, ("203.0.113.20", 40000), b"to red")),
        (WAN, udp(WAN, REMOTE, OUTSIDE_A, b"to main")),
        (LAN, tagged(10, ping(LAN, "10.0.0.2", "10.0.0.1", 7))),
        (LAN, tagged(20, udp_ttl(LAN, A, REMOTE, 1))),
    ])
}

fn masquerade_tcp() -> Input {
    now(vec![
        (LAN, tcp(LAN, A, REMOTE, "S")),
        (LAN, tcp(LAN, B, REMOTE, "A")),
        (WAN, tcp(WAN, REMOTE, OUTSIDE_A, "SA")),
        (WAN, tcp(WAN, ("203.0.113.10", 5000), OUTSIDE_A, "S")),
    ])
}

// Proves: I10.
fn masquerade_icmp() -> Input {
    now(vec![
        (LAN, ping(LAN, "10.0.0.2", "203.0.113.9", 777)),
        (LAN, ping(LAN, "10.0.0.2", "10.0.0.1", 5)),
        (LAN, ping(LAN, "10.0.0.2", "203.0.113.1", 6)),
        (WAN, pong(WAN, "203.0.113.9", "203.0.113.1", 777)),
        (WAN, pong(WAN, "203.0.113.9", "203.0.113.1", 778)),
        (WAN, ping(WAN, "203.0.113.9", "203.0.113.1", 9)),
    ])
}

// Proves: F8, OT5.
fn udp_without_checksum() -> Input {
    let mut frame = udp(LAN, A, REMOTE, b"no checksum");
    frame[40..42].copy_from_slice(&[0, 0]);
    let mut answer = udp(WAN, REMOTE, OUTSIDE_A, b"none either");
    answer[40..42].copy_from_slice(&[0, 0]);
    now(vec![(LAN, frame), (WAN, answer)])
}

/// Cuts a UDP frame into IPv4 fragments of at most `size` payload bytes (a multiple of 8).
fn cut(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &frame[34..];
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(i, chunk)| {
            let mut piece = frame[..34].to_vec();
            let more = if i + 1 < count { 0x2000 } else { 0 };
            let field = (i * size / 8) as u16 | more;
            piece[16..18].copy_from_slice(&((20 + chunk.len()) as u16).to_be_bytes());
            piece[18..20].copy_from_slice(&0x4242u16.to_be_bytes());
            piece[20..22].copy_from_slice(&field.to_be_bytes());
            piece[24..26].copy_from_slice(&[0, 0]);
            let sum = natgate::wire::checksum::ipv4_header(&piece[14..34]);
            piece[24..26].copy_from_slice(&sum.to_be_bytes());
            piece.extend_from_slice(chunk);
            piece
        })
        .collect()
}

fn fragments() -> Input {
    let whole = udp(LAN, A, REMOTE, &[0x61; 100]);
    let pieces = cut(&whole, 32);
    let mut frames: Vec<_> = pieces
        .iter()
        .rev()
        .map(|piece| (LAN, piece.clone()))
        .collect();
    let answer = udp(WAN, REMOTE, OUTSIDE_A, &[0x62; 64]);
    frames.extend(cut(&answer, 24).into_iter().map(|piece| (WAN, piece)));
    now(frames)
}

fn icmp_about_flow() -> Input {
    let translated = {
        let mut frame = udp(WAN, OUTSIDE_A, REMOTE, b"probe");
        frame[22] = 63;
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum = natgate::wire::checksum::ipv4_header(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let unknown = udp(WAN, ("203.0.113.1", 41000), REMOTE, b"probe");
    now(vec![
        (LAN, udp(LAN, A, REMOTE, b"probe")),
        (
            WAN,
            icmp_error(WAN, "203.0.113.77", "203.0.113.1", (3, 4), &translated),
        ),
        (
            WAN,
            icmp_error(WAN, "203.0.113.9", "203.0.113.1", (3, 3), &translated),
        ),
        (
            WAN,
            icmp_error(WAN, "203.0.113.77", "203.0.113.1", (11, 0), &unknown),
        ),
    ])
}

fn ttl_expired() -> Input {
    now(vec![
        (LAN, udp_ttl(LAN, A, ("203.0.113.9", 33434), 1)),
        (LAN, udp_ttl(LAN, A, ("203.0.113.9", 33435), 2)),
    ])
}

// Proves: F13.
fn filtered() -> Input {
    now(vec![
        (LAN, udp(LAN, A, REMOTE, b"open")),
        (
            WAN,
            udp(WAN, ("203.0.113.9", 5999), OUTSIDE_A, b"another port"),
        ),
        (
            WAN,
            udp(WAN, ("203.0.113.10", 5000), OUTSIDE_A, b"another host"),
        ),
        (
            WAN,
            udp(WAN, REMOTE, ("203.0.113.1", 41000), b"nobody's port"),
        ),
    ])
}

fn forward() -> Input {
    now(vec![
        (
            WAN,
            tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 9002), "S"),
        ),
        (
            WAN,
            tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 9003), "A"),
        ),
    ])
}

/// With pauses: an answer on the same port is never in one burst with the request that had to leave before.
fn hairpin() -> Input {
    let (client, server, public) = (("10.0.0.3", 5555), ("10.0.0.2", 22), "203.0.113.1");
    vec![
        (0, LAN, tcp(LAN, client, (public, 9002), "S")),
        (1, LAN, tcp(LAN, server, (public, 5555), "SA")),
        (2, LAN, tcp(LAN, client, (public, 9002), "A")),
    ]
}

fn static_nat() -> Input {
    now(vec![
        (LAN, udp(LAN, ("10.0.0.5", 7), ("203.0.113.9", 8), b"out")),
        (
            WAN,
            udp(WAN, ("203.0.113.9", 8), ("203.0.113.69", 7), b"back"),
        ),
        (
            WAN,
            tcp(WAN, ("203.0.113.10", 99), ("203.0.113.66", 443), "S"),
        ),
    ])
}

fn exempt() -> Input {
    now(vec![
        (LAN, udp(LAN, A, ("198.51.100.6", 2), b"kept")),
        (LAN, udp(LAN, A, ("198.51.100.5", 2), b"forced")),
    ])
}

/// With pauses, like [`hairpin`].
fn services() -> Input {
    const VIP: &str = "198.18.0.2";
    let (client, backend) = (("203.0.113.9", 5555), ("10.0.0.2", 8080));
    let mut input: Input = vec![
        (0, WAN, tcp(WAN, client, (VIP, 80), "S")),
        (1, LAN, tcp(LAN, backend, client, "SA")),
        (2, LAN, tcp(LAN, ("10.0.0.3", 5555), (VIP, 80), "S")),
        (3, LAN, tcp(LAN, backend, ("10.0.0.1", 5555), "SA")),
        (
            4,
            WAN,
            tcp(WAN, ("203.0.113.9", 5556), ("203.0.113.1", 8081), "S"),
        ),
        (5, LAN, tcp(LAN, backend, ("10.0.0.1", 5556), "SA")),
        (6, WAN, tcp(WAN, client, (VIP, 81), "S")),
        (7, WAN, udp(WAN, client, (VIP, 54), b"nobody's port")),
        (8, WAN, ping(WAN, client.0, VIP, 9)),
        (9, WAN, tcp(WAN, client, ("198.18.0.3", 80), "S")),
        (10, WAN, tcp(WAN, client, ("198.18.0.3", 81), "S")),
    ];
    input.extend((0..6).map(|i| {
        (
            20 + i,
            WAN,
            udp(WAN, (client.0, 7000 + i as u16), (VIP, 53), b"q"),
        )
    }));
    input
}

fn router() -> Input {
    now(vec![
        (LAN, udp(LAN, A, REMOTE, b"routed")),
        (WAN, udp(WAN, REMOTE, A, b"routed back")),
        (LAN, ping(LAN, "10.0.0.2", "203.0.113.1", 1)),
        (LAN, udp_ttl(LAN, A, REMOTE, 1)),
    ])
}

fn broken() -> Input {
    let good = udp(LAN, A, REMOTE, b"good");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        (LAN, frame)
    };
    now(vec![
        with(&|f| f.truncate(20)),
        with(&|f| f[12..14].copy_from_slice(&[0x12, 0x34])),
        with(&|f| f[14] = 0x55),
        with(&|f| f[14] = 0x44),
        with(&|f| f[24] ^= 1),
        with(&|f| f[0..6].copy_from_slice(&[2, 9, 9, 9, 9, 9])),
        with(&|f| f[38..40].copy_from_slice(&[0, 3])),
        (LAN, udp(LAN, ("127.0.0.1", 1), REMOTE, b"martian")),
        (LAN, udp(LAN, ("10.0.0.1", 1), REMOTE, b"our own address")),
        (LAN, udp(LAN, A, ("224.0.0.5", 1), b"multicast")),
        (LAN, udp(LAN, A, ("127.0.0.1", 1), b"loopback")),
        (LAN, good.clone()),
    ])
}

fn timeout() -> Input {
    vec![
        (0, LAN, udp(LAN, A, REMOTE, b"unanswered")),
        (1_000, WAN, udp(WAN, REMOTE, OUTSIDE_A, b"just in time")),
        (
            3_000,
            LAN,
            udp(LAN, A, REMOTE, b"answered ones live longer"),
        ),
        (9_000, WAN, udp(WAN, REMOTE, OUTSIDE_A, b"too late")),
    ]
}

fn filter() -> Input {
    now(vec![
        (LAN, udp(LAN, A, REMOTE, b"accepted")),
        (WAN, udp(WAN, REMOTE, OUTSIDE_A, b"its answer")),
        (LAN, udp(LAN, B, REMOTE, b"rejected by its source")),
        (LAN, tcp(LAN, A, ("203.0.113.9", 25), "S")),
        (
            WAN,
            tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 9000), "S"),
        ),
        (WAN, udp(WAN, REMOTE, ("10.0.0.2", 99), b"dropped")),
        (LAN, ping(LAN, "10.0.0.2", "10.0.0.1", 5)),
    ])
}

fn stateless() -> Input {
    now(vec![
        (LAN, udp(LAN, A, REMOTE, b"request")),
        (WAN, udp(WAN, REMOTE, OUTSIDE_A, b"answer, rejected")),
        (
            WAN,
            udp(WAN, REMOTE, ("203.0.113.1", 41000), b"nobody's port"),
        ),
    ])
}

fn v6(port: PortId, from: &str, to: &str) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    etherparse::PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8]).ipv6(
        address(from),
        address(to),
        64,
    )
}

fn filter_v6() -> Input {
    const SERVER: &str = "2001:db8::9";
    let udp6 = |port, from: (&str, u16), to: (&str, u16)| {
        let mut frame = Vec::new();
        let builder = v6(port, from.0, to.0).udp(from.1, to.1);
        builder.write(&mut frame, b"six").unwrap();
        (port, frame)
    };
    let mut syn = Vec::new();
    let builder = v6(LAN, "fd00:1::2", SERVER).tcp(4000, 25, 1000, 512).syn();
    builder.write(&mut syn, b"").unwrap();
    now(vec![
        udp6(LAN, ("fd00:1::2", 4000), (SERVER, 53)),
        udp6(WAN, (SERVER, 53), ("fd00:1::2", 4000)),
        udp6(WAN, (SERVER, 54), ("fd00:1::2", 4000)),
        udp6(LAN, ("fd00:1::3", 4000), (SERVER, 53)),
        (LAN, syn),
    ])
}
