//! What a phase of a benchmark sends, and what came of it.

use hdrhistogram::{CreationError, Histogram};

use crate::bench::traffic::Purpose;

/// One stretch of traffic, measured by itself.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name in reports.
    pub name: &'static str,
    /// Which way established flows send.
    pub direction: Direction,
    /// How long it lasts.
    pub length: Length,
    /// What is sent besides, and its share of the frames of its port.
    pub extra: Option<(Extra, f64)>,
    /// What of that need not come back: it is refused, not lost.
    pub refusals: bool,
    /// Every frame's translation and checksums are examined, not every sixteenth's source and no checksums.
    pub thorough: bool,
    /// The share of an earlier phase's rate to send at; as fast as possible without.
    pub pace: Option<Pace>,
    /// The policy is swapped ten times a second meanwhile.
    pub reloads: bool,
    /// Sessions are counted every few milliseconds meanwhile.
    pub watched: bool,
    /// Only there for what follows: not reported.
    pub prelude: bool,
}

impl Phase {
    /// Established flows as fast as possible.
    pub fn new(name: &'static str, direction: Direction, length: Length) -> Phase {
        Phase {
            name,
            direction,
            length,
            extra: None,
            refusals: false,
            thorough: false,
            pace: None,
            reloads: false,
            watched: false,
            prelude: false,
        }
    }

    /// Something else besides.
    pub fn with(self, extra: Extra, share: f64) -> Phase {
        Phase {
            extra: Some((extra, share)),
            ..self
        }
    }

    /// Of what is sent besides, nothing need come back.
    pub fn refused(self) -> Phase {
        Phase {
            refusals: true,
            ..self
        }
    }

    /// Every frame is examined.
    pub fn thorough(self) -> Phase {
        Phase {
            thorough: true,
            ..self
        }
    }

    /// Whether anything is sent from the inside, or from the outside.
    pub fn sends(&self, from_inside: bool) -> bool {
        let extra = |(kind, _): (Extra, f64)| kind.from_inside() == from_inside;
        self.direction.sends(from_inside) || self.extra.is_some_and(extra)
    }

    /// At a share of an earlier phase's rate.
    pub fn paced(self, of: usize, share: f64) -> Phase {
        Phase {
            pace: Some(Pace { of, share }),
            ..self
        }
    }

    /// With ten reloads a second.
    pub fn reloading(self) -> Phase {
        Phase {
            reloads: true,
            ..self
        }
    }

    /// With an eye on the number of sessions.
    pub fn watched(self) -> Phase {
        Phase {
            watched: true,
            ..self
        }
    }

    /// Not reported.
    pub fn prelude(self) -> Phase {
        Phase {
            prelude: true,
            ..self
        }
    }
}

/// Which way established flows send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not at all.
    Neither,
    /// Inside to outside.
    Outward,
    /// Outside to inside.
    Inward,
    /// Both ways, in turn.
    Both,
}

impl Direction {
    /// Whether they send from the inside, or from the outside.
    pub fn sends(self, from_inside: bool) -> bool {
        match self {
            Direction::Neither => false,
            Direction::Outward => from_inside,
            Direction::Inward => !from_inside,
            Direction::Both => true,
        }
    }
}

/// How long a phase lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// So many frames.
    Frames(u64),
    /// So many seconds.
    Seconds(f64),
}

/// At which rate a phase sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The phase whose rate it is a share of, by position.
    pub of: usize,
    /// The share.
    pub share: f64,
}

/// What is sent besides established flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// First packets of flows that have no session yet, one after the other.
    Openings,
    /// TCP SYNs from a thousand inside hosts to everywhere.
    SynFromInside,
    /// The same with UDP.
    UdpFromInside,
    /// TCP SYNs from outside to random external endpoints.
    SynFromOutside,
    /// The same with UDP.
    UdpFromOutside,
    /// Datagrams of established flows in two pieces, every other one with the second piece first.
    Fragments,
    /// Second pieces of datagrams whose first ones never come.
    LonePieces,
}

impl Extra {
    /// Whether it comes from the inside.
    pub fn from_inside(self) -> bool {
        !matches!(self, Extra::SynFromOutside | Extra::UdpFromOutside)
    }

    /// Frames that come one right after the other.
    pub fn together(self) -> usize {
        match self {
            Extra::Fragments => 2,
            _ => 1,
        }
    }

    /// What its frames are for.
    pub fn purpose(self) -> Purpose {
        match self {
            Extra::Openings => Purpose::Opening,
            Extra::Fragments => Purpose::Fragment,
            _ => Purpose::Scan,
        }
    }
}

/// Frames of one purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Handed to natgate.
    pub sent: u64,
    /// Come out of the other port.
    pub returned: u64,
}

/// What one phase came to at one worker.
#[derive(Clone, Debug)]
pub struct Measured {
    /// By purpose.
    pub tallies: [Tally; Purpose::COUNT],
    /// Time stamp counter cycles.
    pub cycles: u64,
    /// Nanoseconds.
    pub nanos: u64,
    /// Cycles per frame of slices of [`SLICE`] frames.
    pub slices: Vec<f32>,
    /// Cycles per frame of generator and check alone, in the same phase.
    pub generator: f64,
    /// Last-level cache misses, if the machine counts them.
    pub cache_misses: Option<u64>,
    /// Frames that came back other than they should have.
    pub wrong: u64,
    /// Frames that came back after a later one of their flow.
    pub reordered: u64,
    /// Frames of natgate's own: ARP, ICMP.
    pub others: u64,
    /// Cycles a burst stayed in natgate.
    pub residence: Histogram<u64>,
}

/// Frames per slice.
pub const SLICE: u64 = 16_384;

/// Slices that are kept of a phase: later ones are like earlier ones.
pub const MOST_SLICES: usize = 1 << 14;

/// The longest residence the histogram tells from longer ones: ten seconds and more.
const LONGEST: u64 = 1 << 35;

impl Measured {
    /// Nothing yet.
    ///
    /// # Errors
    /// None with the bounds given here; they are the library's to judge.
    pub fn new() -> Result<Measured, CreationError> {
        Ok(Measured {
            tallies: [Tally::default(); Purpose::COUNT],
            cycles: 0,
            nanos: 0,
            slices: Vec::with_capacity(MOST_SLICES),
            generator: 0.0,
            cache_misses: None,
            wrong: 0,
            reordered: 0,
            others: 0,
            residence: Histogram::new_with_bounds(1, LONGEST, 2)?,
        })
    }

    /// Forgets everything but the room it has.
    pub fn clear(&mut self) {
        self.tallies = [Tally::default(); Purpose::COUNT];
        self.slices = Vec::with_capacity(MOST_SLICES);
        (self.cycles, self.nanos, self.generator) = (0, 0, 0.0);
        self.cache_misses = None;
        (self.wrong, self.reordered, self.others) = (0, 0, 0);
        self.residence.reset();
    }

    /// Frames sent.
    pub fn sent(&self) -> u64 {
        self.tallies.iter().map(|t| t.sent).sum()
    }

    /// Frames that came back.
    pub fn returned(&self) -> u64 {
        self.tallies.iter().map(|t| t.returned).sum()
    }

    /// Frames of a purpose that did not come back.
    pub fn missing(&self, purpose: Purpose) -> u64 {
        let tally = self.tallies[purpose as usize];
        tally.sent.saturating_sub(tally.returned)
    }
}
