//! Which core a thread runs on.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Ties the calling thread, and those it starts from then on, to some cores.
///
/// # Errors
/// When one does not exist, or none may be used.
pub fn pin_to(cores: impl IntoIterator<Item = usize>) -> Result<(), nix::Error> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// The cores this process may use, in order.
pub fn usable_cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return vec![0];
    };
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_stays_on_its_core() {
        let core = usable_cores()[0];
        std::thread::spawn(move || {
            pin_to([core]).unwrap();
            assert_eq!(usable_cores(), [core]);
        })
        .join()
        .unwrap();
        assert!(pin_to([100_000]).is_err());
    }
}
