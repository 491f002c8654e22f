//! What the machine has to give: memory, and what of it and of the cores is near a network card.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::device::{Device, PciAddress};

/// Pages larger than the processor's smallest: fewer of them cover the packet buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Size of one of the default kind, in KiB.
    pub size_kib: u64,
    /// How many of the default kind there are.
    pub total: u64,
    /// Bytes in unused pages of every kind.
    pub free_bytes: u64,
}

/// The memory of the machine, or of the container around this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that can be had without swapping.
    pub available_bytes: u64,
    /// Huge pages, which are not among them.
    pub huge: HugePages,
}

impl Memory {
    /// Reads what the kernel says now; all zero where it says nothing.
    pub fn read() -> Memory {
        Memory::read_under(Path::new("/"))
    }

    fn read_under(root: &Path) -> Memory {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let meminfo = text("proc/meminfo");
        let machine = field(&meminfo, "MemAvailable") * 1024;
        let group = |file: &str| -> Option<u64> {
            text(&format!("sys/fs/cgroup/{file}")).trim().parse().ok()
        };
        // "max", or no such file: the group has no limit of its own.
        let left = group("memory.max")
            .map(|most| most.saturating_sub(group("memory.current").unwrap_or(0)));
        Memory {
            available_bytes: left.map_or(machine, |left| left.min(machine)),
            huge: HugePages {
                size_kib: field(&meminfo, "Hugepagesize"),
                total: field(&meminfo, "HugePages_Total"),
                free_bytes: free_huge_bytes(&root.join("sys/kernel/mm/hugepages")),
            },
        }
    }
}

impl HugePages {
    /// Pages of the default kind that `bytes` need.
    pub fn needed(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.size_kib.max(1) * 1024)
    }
}

/// The number behind `key:` in `/proc/meminfo`.
fn field(meminfo: &str, key: &str) -> u64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(key)?.strip_prefix(':')?;
        rest.split_whitespace().next()?.parse().ok()
    };
    meminfo.lines().find_map(value).unwrap_or(0)
}

/// `hugepages-2048kB/free_hugepages` and its siblings.
fn free_huge_bytes(directory: &Path) -> u64 {
    let Ok(kinds) = fs::read_dir(directory) else {
        return 0;
    };
    let free = |kind: fs::DirEntry| -> Option<u64> {
        let name = kind.file_name().into_string().ok()?;
        let kib: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let count = fs::read_to_string(kind.path().join("free_hugepages")).ok()?;
        Some(count.trim().parse::<u64>().ok()? * kib * 1024)
    };
    kinds.flatten().filter_map(free).sum()
}

/// The NUMA node that the first of the cards among `devices` hangs on. `None`: no card, or a machine with one node.
pub fn node_of_cards<'a>(devices: impl Iterator<Item = &'a Device>) -> Option<u32> {
    node_under(Path::new("/"), devices)
}

fn node_under<'a>(root: &Path, devices: impl Iterator<Item = &'a Device>) -> Option<u32> {
    // One node is no choice: the kernel then says 0, or -1.
    if !root.join("sys/devices/system/node/node1").exists() {
        return None;
    }
    let node = |address: PciAddress| -> Option<u32> {
        let file = root.join(format!("sys/bus/pci/devices/{address}/numa_node"));
        fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    devices
        .flat_map(Device::parts)
        .filter_map(Device::pci)
        .find_map(node)
}

/// The cores of a NUMA node; empty when there is no such node.
pub fn cores_of_node(node: u32) -> BTreeSet<usize> {
    cores_under(Path::new("/"), node)
}

/// The cores of the node a core is on; itself alone where the kernel does not say.
pub fn cores_near(core: usize) -> BTreeSet<usize> {
    near_under(Path::new("/"), core)
}

fn near_under(root: &Path, core: usize) -> BTreeSet<usize> {
    let entries = fs::read_dir(root.join("sys/devices/system/node"));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name());
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("node")?.parse().ok();
    let mut nodes = names.filter_map(number).map(|node| cores_under(root, node));
    nodes
        .find(|cores| cores.contains(&core))
        .unwrap_or_else(|| BTreeSet::from([core]))
}

fn cores_under(root: &Path, node: u32) -> BTreeSet<usize> {
    let file = root.join(format!("sys/devices/system/node/node{node}/cpulist"));
    let list = fs::read_to_string(file).unwrap_or_default();
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &tempfile::TempDir, path: &str, text: &str) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_card_names_its_node_and_the_node_its_cores() {
        let root = tempfile::tempdir().unwrap();
        let card: Device = "pci:3b:00.0".parse().unwrap();
        let node = || node_under(root.path(), [&Device::IDLE, &card].into_iter());
        write(&root, "sys/bus/pci/devices/0000:3b:00.0/numa_node", "1\n");
        assert_eq!(node(), None, "there is one node only");
        write(&root, "sys/devices/system/node/node1/cpulist", "4-6,9\n");
        assert_eq!(node(), Some(1));
        assert_eq!(cores_under(root.path(), 1), BTreeSet::from([4, 5, 6, 9]));
        assert_eq!(cores_under(root.path(), 2), BTreeSet::new());
        assert_eq!(near_under(root.path(), 9), BTreeSet::from([4, 5, 6, 9]));
        assert_eq!(near_under(root.path(), 7), BTreeSet::from([7]));
        write(&root, "sys/bus/pci/devices/0000:3b:00.0/numa_node", "-1\n");
        assert_eq!(node(), None, "the firmware does not say");
    }

    #[test]
    fn memory_is_read_from_the_kernel_and_bounded_by_the_container() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Memory::read_under(root.path()), Memory::default());
        let write = |path: &str, text: &str| write(&root, path, text);
        write(
            "proc/meminfo",
            "MemTotal: 9000 kB\nMemAvailable:    8000 kB\nHugePages_Total:     512\nHugepagesize:       2048 kB\n",
        );
        write(
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "500\n",
        );
        write(
            "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
            "1\n",
        );
        write("sys/fs/cgroup/memory.max", "max\n");
        let memory = Memory::read_under(root.path());
        assert_eq!(
            memory,
            Memory {
                available_bytes: 8000 << 10,
                huge: HugePages {
                    size_kib: 2048,
                    total: 512,
                    free_bytes: (500 << 21) + (1 << 30),
                },
            }
        );
        assert_eq!(memory.huge.needed((2 << 20) + 1), 2);
        write("sys/fs/cgroup/memory.max", "5000000\n");
        write("sys/fs/cgroup/memory.current", "1000000\n");
        assert_eq!(Memory::read_under(root.path()).available_bytes, 4_000_000);
        write("sys/fs/cgroup/memory.max", "9000000000\n");
        assert_eq!(Memory::read_under(root.path()).available_bytes, 8000 << 10);
    }
}
