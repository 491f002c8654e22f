//! A history that ends in a difference is made as short and as plain as it can be while it still ends in that difference.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Display, Formatter};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::common::End;
use crate::history::{About, Case, Play, Step};
use crate::written;

/// Where two that should agree did not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The step; as many as there are when it is what is left after all of them.
    pub at: usize,
    /// File and line of the check.
    place: String,
    message: String,
}

/// A history that ends in a failure.
pub struct Shrunk {
    pub case: Case,
    pub steps: Vec<Step>,
    pub failure: Failure,
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static TOLD: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
}

/// Does something that may panic, silently: place and message if it did.
pub fn caught(work: impl FnOnce()) -> Result<(), (String, String)> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                return usual(info);
            }
            let place = info.location().map(ToString::to_string);
            let message = info.payload_as_str().unwrap_or_default().to_owned();
            TOLD.set((place.unwrap_or_default(), message));
        }));
    });
    QUIET.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    outcome.map_err(|_| TOLD.take())
}

/// Plays a whole history.
pub fn play(case: &Case, steps: &[Step]) -> Result<(), Failure> {
    let at = Cell::new(0);
    let outcome = caught(|| {
        let mut play = Play::new(case);
        for step in steps {
            play.step(*step, &|| format!("step {}", at.get()));
            at.set(at.get() + 1);
        }
        play.end();
    });
    outcome.map_err(|(place, message)| Failure {
        at: at.get(),
        place,
        message,
    })
}

/// Plays a history; if it ends in a difference, that is shrunk, written down as a golden row, and told.
pub fn check(case: &Case, steps: &[Step]) {
    if let Err(failure) = play(case, steps) {
        let shrunk = shrink(case, steps, failure);
        let (mapping, filtering) = case.behaviours;
        let Case { workers, seed, .. } = case;
        let name = format!("model-{workers}-{mapping}-{filtering}-{seed}");
        let row = written::row(&shrunk, &name);
        row.write();
        panic!("{shrunk}{}", written::told(&row, &shrunk));
    }
}

/// The shortest and plainest history that still fails as this one does.
pub fn shrink(case: &Case, steps: &[Step], failure: Failure) -> Shrunk {
    let mut shrunk = Shrunk {
        case: case.clone(),
        steps: steps[..steps.len().min(failure.at + 1)].to_vec(),
        failure,
    };
    while shrunk.remove() | shrunk.simplify() {}
    shrunk
}

impl Shrunk {
    /// Takes a history in place of this one if it fails as well, by the same check.
    fn adopt(&mut self, case: Case, mut steps: Vec<Step>) -> bool {
        match play(&case, &steps) {
            Err(failure) if failure.place == self.failure.place => {
                steps.truncate(failure.at + 1);
                *self = Shrunk {
                    case,
                    steps,
                    failure,
                };
                true
            }
            _ => false,
        }
    }

    /// Removes what is not needed: large parts first, single steps at last.
    fn remove(&mut self) -> bool {
        let before = self.steps.len();
        let mut size = before.div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.steps.len() {
                let to = self.steps.len().min(from + size);
                let rest = [&self.steps[..from], &self.steps[to..]].concat();
                if !self.adopt(self.case.clone(), rest) {
                    from = to;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        self.steps.len() < before
    }

    /// Makes plainer what is left.
    fn simplify(&mut self) -> bool {
        let mut changed = false;
        // Whatever helps, others may help after it.
        while self
            .plainer()
            .into_iter()
            .any(|(case, steps)| self.adopt(case, steps))
        {
            changed = true;
        }
        changed
    }

    /// The same, each time plainer in one respect.
    fn plainer(&self) -> Vec<(Case, Vec<Step>)> {
        let mut all = Vec::new();
        let mut add = |case: Case, change: &dyn Fn(&mut Step)| {
            let mut steps = self.steps.clone();
            steps.iter_mut().for_each(change);
            let other = (case.workers, case.seed) != (self.case.workers, self.case.seed);
            if other || steps != self.steps {
                all.push((case, steps));
            }
        };
        let same = || self.case.clone();
        let first = |step: &mut Step| step.receiver(0);
        let (workers, seed) = (1, 1);
        add(Case { workers, ..same() }, &first);
        add(Case { seed, ..same() }, &|_| ());
        add(same(), &first);
        add(same(), &|step| step.whole());
        for end in self.steps.iter().flat_map(|step| step.ends()) {
            let plain = plain(end);
            for other in [plain, (plain.0, end.1), (end.0, plain.1)] {
                add(same(), &|step| step.rename(end, other));
            }
        }
        for (n, step) in self.steps.iter().enumerate() {
            let mut replace = |with: &[Step]| {
                let steps = [&self.steps[..n], with, &self.steps[n + 1..]].concat();
                all.push((same(), steps));
            };
            if let Step::Wait(millis) = *step {
                let shorter = [1_000, 61_000, 121_000, 301_000].into_iter();
                let shorter = shorter.filter(|shorter| *shorter < millis);
                shorter.for_each(|shorter| replace(&[Step::Wait(shorter)]));
            }
            let mut changes: [Step; 3] = [*step; 3];
            changes[0].receiver(0);
            changes[1].whole();
            changes[2].pieces_in_order();
            let changed = changes.into_iter().filter(|changed| changed != step);
            changed.for_each(|changed| replace(&[changed]));
        }
        let pairs = self.steps.windows(2).enumerate();
        for (n, pair) in pairs {
            if let [Step::Wait(first), Step::Wait(second)] = pair {
                let one = [Step::Wait(first + second)];
                let steps = [&self.steps[..n], &one, &self.steps[n + 2..]].concat();
                all.push((same(), steps));
            }
        }
        all
    }
}

/// The plainest endpoint on the same side.
fn plain(end: End) -> End {
    match end.0 {
        inside if inside.starts_with("10.") => ("10.0.0.2", 2000),
        pool @ "203.0.113.20" => (pool, 2000),
        _ => ("203.0.113.9", 5000),
    }
}

impl Step {
    /// The worker that receives it.
    fn receiver(&mut self, worker: u8) {
        if let Step::Out { at, .. } | Step::In { at, .. } | Step::Error { at, .. } = self {
            *at = worker;
        }
    }

    /// In one piece.
    fn whole(&mut self) {
        if let Step::Out { cut, .. } | Step::In { cut, .. } = self {
            *cut = None;
        }
    }

    /// In pieces as they were cut.
    fn pieces_in_order(&mut self) {
        if let Step::Out { cut, .. } | Step::In { cut, .. } = self {
            *cut = cut.map(|(id, _)| (id, [0, 1, 2]));
        }
    }

    fn named(&mut self) -> Vec<&mut End> {
        match self {
            Step::Out { from, to, .. } | Step::In { from, to, .. } => vec![from, to],
            Step::Error {
                about: About::Sender(from) | About::Endpoint(from),
                to,
                ..
            } => vec![from, to],
            Step::Wait(_) | Step::Reload => Vec::new(),
        }
    }

    fn ends(mut self) -> Vec<End> {
        self.named().into_iter().map(|end| *end).collect()
    }

    fn rename(&mut self, one: End, other: End) {
        for end in self.named() {
            if *end == one {
                *end = other;
            }
        }
    }
}

impl Display for Shrunk {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Case { workers, seed, .. } = self.case;
        writeln!(f, "{workers} workers, seed {seed}:")?;
        for step in &self.steps {
            writeln!(f, "  {step:?}")?;
        }
        let Failure { place, message, .. } = &self.failure;
        writeln!(f, "differs from the reference, {place}: {message}")
    }
}
