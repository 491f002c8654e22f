//! The packets everybody gets: one frame of every session, in random order, as a capture file.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use ::natgate::bench::family::Family;
use ::natgate::bench::order::{Order, Pattern};
use ::natgate::bench::template::{Kind, Template};
use ::natgate::bench::traffic::{Population, Purpose};
use ::natgate::wire::MacAddr;

/// Where natgate's inside port listens; testpmd takes everything.
pub const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Where the packets come from.
pub const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Bytes of a frame.
const SMALLEST: usize = Family::Ipv4.smallest();

/// Writes one frame of each of `sessions` flows.
pub fn write(path: &Path, sessions: u32) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.write_all(&word.to_le_bytes())?;
    }
    let population = Population::new(sessions, 0, |_| true);
    let mut order = Order::new(Pattern::Random, sessions, 1);
    let template = Template::new(
        Family::Ipv4,
        Kind::Datagram,
        Purpose::Established,
        SMALLEST,
        GATEWAY,
        HOST,
    );
    for sequence in 0..sessions {
        let flow = order.next_flow();
        let mut frame = [0; SMALLEST];
        template.write(&mut frame, &population.tuple(flow), flow, sequence);
        for word in [0, 0, SMALLEST as u32, SMALLEST as u32] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame)?;
    }
    file.flush()
}
