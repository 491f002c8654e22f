//! Huge pages for the time of the run.

use std::fs;
use std::process::Command;

const TOTAL: &str = "/proc/sys/vm/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
const PAGE: u64 = 2 << 20;

/// What contender and generator together need: packet buffers and some change.
pub const BYTES: u64 = 1280 << 20;

/// Where memory is found that several processes map.
const MOUNT: &str = "/dev/hugepages";

/// The machine's reservation, put back to what it was at the end.
pub struct Reservation {
    before: Option<u64>,
    free: u64,
    wanted: u64,
    mounted: bool,
}

impl Reservation {
    /// Asks for as many pages as `bytes` need beyond those in use. A machine that refuses (memory in pieces, not root)
    /// gives fewer: then nobody gets any.
    pub fn take(bytes: u64) -> Reservation {
        let wanted = bytes.div_ceil(PAGE);
        let (before, free) = (read(TOTAL), read(FREE));
        let short = wanted.saturating_sub(free);
        let changed = short > 0 && fs::write(TOTAL, (before + short).to_string()).is_ok();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mounted = !mounts.contains(" hugetlbfs ")
            && fs::create_dir_all(MOUNT).is_ok()
            && succeeds(&["mount", "-t", "hugetlbfs", "none", MOUNT]);
        Reservation {
            mounted,
            before: changed.then_some(before),
            free: read(FREE),
            wanted,
        }
    }

    /// Whether everybody can have them.
    pub fn is_enough(&self) -> bool {
        self.free >= self.wanted
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.mounted {
            succeeds(&["umount", MOUNT]);
        }
        if let Some(before) = self.before {
            // A failure leaves pages reserved; `sysctl vm.nr_hugepages` shows them.
            let _ = fs::write(TOTAL, before.to_string());
        }
    }
}

fn succeeds(words: &[&str]) -> bool {
    let status = Command::new(words[0]).args(&words[1..]).status();
    status.is_ok_and(|status| status.success())
}

fn read(path: &str) -> u64 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default()
}
