//! What one worker's station is to do, and the frames it does it with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::base::Random;
use crate::bench::family::Family;
use crate::bench::order::Pattern;
use crate::bench::phase::{Extra, Phase};
use crate::bench::template::{Kind, Template};
use crate::bench::traffic::{Population, Purpose};
use crate::flow::key::Tuple;
use crate::wire::MacAddr;

/// Inside hosts that scan, besides those that have flows.
pub const SCANNERS: u32 = 1024;

/// A worker's task.
#[derive(Clone, Debug)]
pub struct Script {
    /// One after the other.
    pub phases: Vec<Phase>,
    /// What the packets are.
    pub family: Family,
    /// Who sends; the last [`SCANNERS`] hosts have no flows.
    pub population: Population,
    /// Flows there are.
    pub flows: u32,
    /// Of those, the first ones that established traffic is made of.
    pub established: u32,
    /// In which order.
    pub pattern: Pattern,
    /// Sizes of established flows' frames, in turn.
    pub lengths: Vec<usize>,
    /// MAC addresses of natgate's inside and outside interface.
    pub macs: [MacAddr; 2],
    /// External addresses: the first and how many.
    pub pool: (u32, u32),
    /// For whatever is random.
    pub seed: u64,
}

/// Where a benchmark is, for whoever accompanies it.
#[derive(Debug)]
pub struct Course {
    phase: AtomicUsize,
    unfinished: AtomicUsize,
    /// Set when every station has finished.
    pub stop: Arc<AtomicBool>,
}

impl Course {
    /// Before the first phase.
    pub fn new(stations: usize) -> Arc<Course> {
        Arc::new(Course {
            phase: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(stations),
            stop: Arc::default(),
        })
    }

    /// A phase begins.
    pub fn enter(&self, phase: usize) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// The phase under way.
    pub fn phase(&self) -> usize {
        self.phase.load(Ordering::Relaxed)
    }

    /// A station has finished; the last one stops the workers.
    pub fn finish(&self) {
        if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop.store(true, Ordering::Release);
        }
    }
}

/// A frame to be written.
pub struct Frame<'a> {
    /// Its form.
    pub template: &'a Template,
    /// Its addresses and ports.
    pub tuple: Tuple<u32>,
    /// Its flow.
    pub flow: u32,
    /// Its sequence number.
    pub sequence: u32,
    /// Its identification, if it is a fragment.
    pub id: u16,
}

/// Where generated frames come from, as far as natgate can tell.
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Prebuilt frames, and what comes next of those that are numbered.
#[derive(Clone, Debug)]
pub struct Templates {
    /// From the outside and from the inside, one for each size.
    datagrams: [Vec<Template>; 2],
    opening: Template,
    pieces: [Template; 2],
    lone: Template,
    /// Scans from the outside and from the inside.
    syn: [Template; 2],
    udp: [Template; 2],
    turn: usize,
    sequence: u32,
    /// The next flow to be opened.
    opening_next: u32,
    pieces_sent: u32,
}

impl Templates {
    /// The frames of a script.
    pub fn new(script: &Script) -> Templates {
        let of = |kind, purpose, length, from_inside: usize| {
            let to = script.macs[1 - from_inside];
            Template::new(script.family, kind, purpose, length, to, STATION)
        };
        let datagrams = |side| {
            let lengths = script.lengths.iter();
            lengths
                .map(|&length| of(Kind::Datagram, Purpose::Established, length, side))
                .collect()
        };
        let pieces = [Kind::FirstPiece, Kind::SecondPiece];
        Templates {
            datagrams: [datagrams(0), datagrams(1)],
            opening: of(Kind::Datagram, Purpose::Opening, 0, 1),
            pieces: pieces.map(|kind| of(kind, Purpose::Fragment, 0, 1)),
            lone: of(Kind::SecondPiece, Purpose::Scan, 0, 1),
            syn: [0, 1].map(|side| of(Kind::Syn, Purpose::Scan, 0, side)),
            udp: [0, 1].map(|side| of(Kind::Datagram, Purpose::Scan, 0, side)),
            turn: 0,
            sequence: 0,
            opening_next: 0,
            pieces_sent: 0,
        }
    }

    /// The next frame of an established flow, and its sequence number.
    #[inline]
    pub fn datagram(&mut self, from_inside: bool) -> (&Template, u32) {
        self.sequence = self.sequence.wrapping_add(1);
        let templates = &self.datagrams[usize::from(from_inside)];
        self.turn = if self.turn + 1 < templates.len() {
            self.turn + 1
        } else {
            0
        };
        (&templates[self.turn], self.sequence)
    }

    /// The first frame of a flow, and its sequence number.
    pub fn opening(&mut self) -> (&Template, u32) {
        self.sequence = self.sequence.wrapping_add(1);
        (&self.opening, self.sequence)
    }

    /// The next frame of another kind.
    pub fn extra(&mut self, kind: Extra, script: &Script, random: &mut Random) -> Frame<'_> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut frame = Frame {
            template: &self.opening,
            tuple: Tuple {
                source: random.next_u64() as u32,
                destination: random.next_u64() as u32,
                source_port: 1024 | random.next_u64() as u16,
                destination_port: 1024 | random.next_u64() as u16,
            },
            flow: 0,
            sequence: self.sequence,
            id: 0,
        };
        match kind {
            Extra::Openings => {
                frame.flow = self.opening_next;
                frame.tuple = script.population.tuple(frame.flow);
                self.opening_next = match self.opening_next + 1 {
                    next if next < script.flows => next,
                    // Flows that were refused try again.
                    _ => script.established.min(script.flows - 1),
                };
            }
            Extra::Fragments => {
                // Two pieces make a datagram, and every other datagram comes second piece first.
                let (datagram, half) = (self.pieces_sent / 2, self.pieces_sent % 2);
                self.pieces_sent = self.pieces_sent.wrapping_add(1);
                frame.template = &self.pieces[((half + datagram) % 2) as usize];
                frame.flow = datagram % script.established;
                frame.tuple = script.population.tuple(frame.flow);
                (frame.sequence, frame.id) = (datagram, datagram as u16);
            }
            Extra::SynFromInside | Extra::UdpFromInside | Extra::LonePieces => {
                let (first, count) = (script.population.hosts() - SCANNERS, SCANNERS);
                frame.tuple.source = script.population.address(first + random.below(count));
                frame.id = frame.sequence as u16;
                // Anywhere in 128.0.0.0/2: public space.
                frame.tuple.destination = 0x8000_0000 | frame.tuple.destination >> 2;
                frame.template = match kind {
                    Extra::SynFromInside => &self.syn[1],
                    Extra::UdpFromInside => &self.udp[1],
                    _ => &self.lone,
                };
            }
            Extra::SynFromOutside | Extra::UdpFromOutside => {
                let (first, count) = script.pool;
                frame.tuple.source = 0x8000_0000 | frame.tuple.source >> 2;
                frame.tuple.destination = first + random.below(count);
                frame.template = match kind {
                    Extra::SynFromOutside => &self.syn[0],
                    _ => &self.udp[0],
                };
            }
        }
        frame
    }
}
