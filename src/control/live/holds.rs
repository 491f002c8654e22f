//! Ports that rest across a restart (RFC 6888 REQ-8): what was in use or resting when the gateway stopped is not given to
//! anybody else until its hold time is over.
//!
//! With `system.state_directory` the busy ports are written to `INSTANCE.hold` there, every ten seconds and at the end.
//! A new file replaces the old one whole. After a crash what was taken since the last time is not known.
//!
//! ```text
//! natgate-hold 1
//! written 1764103857
//! 203.0.113.20 udp 120 0400:00000000000000ff 0440:8000000000000000
//! end 1
//! ```
//!
//! Behind the version and the time of writing (seconds since 1970) there is a line for each address and protocol: how many
//! seconds its ports rest, and windows of 64 ports, each its first port and its busy ports as a bit mask, lowest port lowest,
//! all in hexadecimal. The last line says how many lines that were, so that half a file is not taken for a whole one. At the
//! start each port rests for what is left of its time, up to `hold_max` ports of an address.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::ask::PATIENCE;
use super::{Live, lock, tables, unix_seconds};
use crate::base::{Tick, WorkerId};
use crate::config::validated::System;
use crate::dataplane::worker::JobContext;
use crate::nat::policy::Policy;
use crate::nat::ports::{External, Held, PortSpace, Rest};

const VERSION: &str = "natgate-hold 1";

/// Busy ports of one address and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    address: IpAddr,
    space: PortSpace,
    hold_seconds: u64,
    /// First port and mask.
    windows: Vec<(u16, u64)>,
}

/// What was busy, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    unix_seconds: u64,
    ports: Vec<Busy>,
}

/// Where the file is, if there is to be one.
fn file(system: &System) -> Option<PathBuf> {
    let directory = system.state_directory.as_ref()?;
    Some(directory.join(format!("{}.hold", system.instance)))
}

impl Saved {
    /// What is busy now, in pools whose ports rest.
    pub fn of(policy: &Policy, unix_seconds: u64) -> Saved {
        let mut ports = Vec::new();
        for (index, external) in policy.nat.externals.iter() {
            let hold = policy.nat.pool_of(index).map_or(0, |p| p.policy().hold);
            if hold == 0 {
                continue;
            }
            for space in PortSpace::ALL {
                let windows = external.busy(space);
                if !windows.is_empty() {
                    ports.push(Busy {
                        address: external.address(),
                        space,
                        hold_seconds: tables::seconds(hold).ceil() as u64,
                        windows,
                    });
                }
            }
        }
        Saved {
            unix_seconds,
            ports,
        }
    }

    /// The content of the file.
    pub fn text(&self) -> String {
        let mut text = format!("{VERSION}\nwritten {}\n", self.unix_seconds);
        for busy in &self.ports {
            let (space, hold) = (busy.space.name(), busy.hold_seconds);
            // Writing to a string cannot fail.
            let _ = write!(text, "{} {space} {hold}", busy.address);
            for (window, mask) in &busy.windows {
                let _ = write!(text, " {window:04x}:{mask:016x}");
            }
            text.push('\n');
        }
        let _ = writeln!(text, "end {}", self.ports.len());
        text
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Saved, String> {
        let mut lines = text.lines();
        match lines.next() {
            Some(VERSION) => {}
            other => {
                return Err(format!(
                    "is not of the kind {VERSION:?} but {:?}",
                    other.unwrap_or_default()
                ));
            }
        }
        let written = lines.next().and_then(|l| l.strip_prefix("written "));
        let unix_seconds = written
            .and_then(|seconds| seconds.parse().ok())
            .ok_or("does not say when it was written")?;
        let mut ports = Vec::new();
        for line in lines {
            if let Some(count) = line.strip_prefix("end ") {
                return match count.parse() == Ok(ports.len()) {
                    true => Ok(Saved {
                        unix_seconds,
                        ports,
                    }),
                    false => Err("has lost lines".to_owned()),
                };
            }
            let busy = Busy::parse(line).ok_or_else(|| format!("has a line {line:?}"))?;
            ports.push(busy);
        }
        Err("ends early".to_owned())
    }

    /// Makes the ports rest, before any worker runs. Returns what each worker has to end the rest of.
    // Implements: G8.
    pub fn restore(&self, policy: &Policy, unix_seconds: u64, now: Tick) -> Vec<Vec<Held>> {
        let mut held: Vec<Vec<Held>> = vec![Vec::new(); usize::from(policy.workers)];
        let age = unix_seconds.saturating_sub(self.unix_seconds);
        let mut rested = 0usize;
        let mut count = 0;
        let mut latest = None;
        for busy in &self.ports {
            let left = busy.hold_seconds.saturating_sub(age);
            let known = policy.nat.externals.iter();
            let known = known.filter(|(_, external)| external.address() == busy.address);
            let Some((index, external)) = known.last().filter(|_| left > 0) else {
                continue;
            };
            let limit = policy
                .nat
                .pool_of(index)
                .map_or(0, |pool| pool.policy().hold_max);
            if latest.replace(busy.address) != Some(busy.address) {
                count = 0;
            }
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let due = Tick(
                now.0
                    .saturating_add(left.saturating_mul(Tick::PER_SECOND))
                    .saturating_add(1),
            );
            for port in busy.ports() {
                if count >= limit {
                    break;
                }
                let worker = WorkerId((rested % held.len().max(1)) as u8);
                match external.rest(busy.space, port, worker, now) {
                    Rest::Not => continue,
                    Rest::ByItself => {}
                    Rest::UntilReleased => held[worker.index()].push(Held {
                        external: index,
                        space: busy.space,
                        port,
                        due,
                    }),
                }
                rested += 1;
                count += 1;
            }
        }
        // What is due first must be let go first.
        held.iter_mut()
            .for_each(|list| list.sort_by_key(|entry| entry.due));
        held
    }
}

impl Busy {
    fn parse(line: &str) -> Option<Busy> {
        let mut words = line.split(' ');
        let address = words.next()?.parse().ok()?;
        let name = words.next()?;
        let space = PortSpace::ALL.into_iter().find(|s| s.name() == name)?;
        let hold_seconds = words.next()?.parse().ok()?;
        let window = |word: &str| {
            let (window, mask) = word.split_once(':')?;
            let window = u16::from_str_radix(window, 16).ok()?;
            let mask = u64::from_str_radix(mask, 16).ok()?;
            (window % 64 == 0).then_some((window, mask))
        };
        Some(Busy {
            address,
            space,
            hold_seconds,
            windows: words.map(window).collect::<Option<_>>()?,
        })
    }

    fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.windows.iter().flat_map(|&(window, mask)| {
            let bits = (0..64u16).filter(move |bit| mask >> bit & 1 == 1);
            bits.map(move |bit| window + bit)
        })
    }
}

/// Replaces a file of the state directory.
///
/// # Errors
/// When the directory cannot be made or the file not be written.
pub(super) fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut next = file.as_os_str().to_owned();
    next.push(".new");
    let mut out = std::fs::File::create(&next)?;
    out.write_all(text.as_bytes())?;
    // Else a machine that stops may keep the name and lose the content.
    out.sync_all()?;
    std::fs::rename(next, file)
}

/// Reads the file; nothing was busy if there is none.
///
/// # Errors
/// What is wrong with it.
fn read(file: &Path) -> Result<Option<Saved>, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Saved::parse(&text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes rest what the file says was busy, before the workers start. Returns what each worker is to let go in time.
pub fn recall(system: &System, policy: &Policy, now: Tick) -> Vec<Vec<Held>> {
    let Some(file) = file(system) else {
        return Vec::new();
    };
    match read(&file) {
        Ok(None) => Vec::new(),
        Ok(Some(saved)) => {
            let held = saved.restore(policy, unix_seconds(), now);
            let ports: u32 = policy.nat.externals.iter().map(|(_, e)| resting(e)).sum();
            tracing::info!(ports, "ports of before the start rest");
            held
        }
        Err(why) => {
            let file = file.display();
            tracing::error!(%file, why, "ports of before the start do not rest");
            Vec::new()
        }
    }
}

fn resting(external: &External) -> u32 {
    let usages = PortSpace::ALL.map(|space| external.usage(space).held);
    usages.iter().sum()
}

impl Live {
    /// Gives the workers the ports that rest since before the start.
    pub fn hand_out(&self, resting: Vec<Vec<Held>>) {
        for (worker, mut entries) in self.workers.iter().zip(resting) {
            let job = move |context: &mut JobContext<'_>| {
                let externals = &context.policy.nat.externals;
                context.nat.allocator.take_over(externals, &entries);
                // Freed where it was made: a worker does not wait for the allocator.
                std::mem::take(&mut entries)
            };
            let taken = worker
                .begin(job)
                .and_then(|answer| answer.recv_timeout(PATIENCE).ok());
            if taken.is_none() {
                let worker = worker.worker;
                tracing::error!(worker, "ports of before the start rest until the next one");
            }
        }
    }

    /// Writes down which ports are busy; the housekeeping calls it every few seconds, and the end of the gateway once more.
    pub fn save_holds(&self) {
        let system = lock(&self.running).loaded.validated.system.clone();
        let Some(file) = file(&system) else {
            return;
        };
        let saved = Saved::of(&self.published.load(), unix_seconds());
        if let Err(error) = replace(&file, &saved.text()) {
            let file = file.display();
            tracing::error!(%file, %error, "busy ports are not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::compile::compile_text;

    fn policy(keys: &str) -> std::sync::Arc<Policy> {
        let text = format!(
            "schema = 1\n\
             port = [{{ name = \"a\", device = \"null:\" }}, {{ name = \"b\", device = \"null:\" }}]\n\
             interface = [{{ name = \"lan\", port = \"a\", address = [\"10.0.0.1/24\"] }}, {{ name = \"wan\", port = \"b\", address = [\"203.0.113.1/24\"] }}]\n\
             [system]\nworkers = 2\n\
             [[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20-203.0.113.21\"]\n{keys}\n\
             [[source-nat]]\nout = \"wan\"\nvia = \"pool:p\"\n"
        );
        compile_text("test", &text).unwrap_or_else(|report| panic!("{report}"))
    }

    fn saved(seconds: u64) -> Saved {
        let text = format!(
            "natgate-hold 1\nwritten {seconds}\n\
             203.0.113.20 udp 120 0400:8000000000000003 ffc0:8000000000000000\n\
             203.0.113.20 tcp 120 0400:0000000000000001\n\
             198.51.100.9 tcp 120 0400:0000000000000001\nend 3\n"
        );
        let saved = Saved::parse(&text).unwrap();
        assert_eq!(saved.text(), text);
        saved
    }

    #[test]
    fn ports_rest_for_what_is_left_of_their_time() {
        let policy_now = policy("");
        let held = saved(1000).restore(&policy_now, 1030, Tick(8));
        let mut ports: Vec<(u16, PortSpace)> = Vec::new();
        for (worker, list) in held.iter().enumerate() {
            for entry in list {
                // 90 of 120 seconds, in quarters, and one for the tick that has begun.
                assert_eq!(entry.due, Tick(8 + 360 + 1));
                let external = policy_now.nat.externals.get(entry.external).unwrap();
                let owner = external.owner(entry.space, entry.port);
                assert_eq!(owner, Some(WorkerId(worker as u8)));
                ports.push((entry.port, entry.space));
            }
        }
        ports.sort_unstable();
        let udp = [1024, 1025, 1087, 65535].map(|port| (port, PortSpace::Udp));
        assert_eq!(ports.len(), 5);
        assert!(udp.iter().all(|p| ports.contains(p)));
        assert!(ports.contains(&(1024, PortSpace::Tcp)));
        // Written down again, they are the same; an address that is gone is forgotten.
        let again = Saved::of(&policy_now, 1000);
        assert_eq!(again.ports[0].windows, saved(1000).ports[1].windows);
        assert_eq!(again.ports[1].windows, saved(1000).ports[0].windows);
        assert_eq!(again.ports.len(), 2);
        let none = saved(1000).restore(&policy(""), 1120, Tick(8));
        assert!(none.iter().all(Vec::is_empty), "two minutes later");
        let few = saved(1000).restore(&policy("hold_max = 3"), 1030, Tick(8));
        assert_eq!(few.iter().map(Vec::len).sum::<usize>(), 3);
        assert_eq!(Saved::of(&policy("hold = \"0s\""), 1).ports, []);
    }

    #[test]
    fn half_a_file_and_other_kinds_are_refused() {
        let whole = saved(1).text();
        for (text, why) in [
            ("", "is not of the kind"),
            ("natgate-hold 2\nwritten 1\nend 0\n", "natgate-hold 2"),
            ("natgate-hold 1\nend 0\n", "when it was written"),
            (&whole[..whole.len() - 6], "ends early"),
            (&whole.replace("end 3", "end 2"), "lost lines"),
            (&whole.replace("0400:", "0401:"), "has a line"),
            (&whole.replace(" tcp ", " dccp "), "has a line"),
        ] {
            let error = Saved::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/natgate.hold");
        assert_eq!(read(&file), Ok(None));
        for seconds in [1, 2] {
            replace(&file, &saved(seconds).text()).unwrap();
            assert_eq!(read(&file), Ok(Some(saved(seconds))));
        }
        assert_eq!(
            std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1
        );
        std::fs::write(&file, "rubbish").unwrap();
        assert!(read(&file).is_err());
    }
}
