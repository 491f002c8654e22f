//! Why a PCI port cannot be used, found out from sysfs before DPDK would say something less clear.

use std::fs;
use std::path::Path;

use crate::dataplane::device::PciAddress;

use super::error::Error;

/// Kernel drivers that hand a device to user space.
const USER_DRIVERS: [&str; 3] = ["vfio-pci", "igb_uio", "uio_pci_generic"];
/// Kernel drivers that DPDK works beside ("bifurcated"): the device stays with them.
const SHARED_DRIVERS: [&str; 2] = ["mlx4_core", "mlx5_core"];

/// Checks that DPDK can drive the network card at `address`.
///
/// # Errors
/// [`Error::Device`] with one sentence: what is in the way, and the command that removes it.
pub fn check(address: PciAddress) -> Result<(), Error> {
    check_under(Path::new("/"), address).map_err(Error::Device)
}

fn check_under(root: &Path, address: PciAddress) -> Result<(), String> {
    let bus = root.join("sys/bus/pci");
    let device = bus.join("devices").join(address.to_string());
    if !bus.join("devices").is_dir() {
        return Err(format!(
            "this machine has no PCI bus, so there is no device {address}"
        ));
    }
    if !device.is_dir() {
        return Err(format!(
            "there is no PCI device {address} (`dpdk-devbind.py --status-dev net` lists those there are)"
        ));
    }
    let class = fs::read_to_string(device.join("class")).unwrap_or_default();
    if !class.trim().is_empty() && !class.starts_with("0x02") {
        return Err(format!(
            "PCI device {address} is no network card (class {}; `dpdk-devbind.py --status-dev net` lists those)",
            class.trim()
        ));
    }
    let bind = format!("dpdk-devbind.py -b vfio-pci {address}");
    let bind = if bus.join("drivers/vfio-pci").is_dir() {
        bind
    } else {
        format!("modprobe vfio-pci && {bind}")
    };
    match link_name(&device.join("driver")) {
        None => Err(format!(
            "PCI device {address} has no driver (give it to DPDK: `{bind}`)"
        )),
        Some(driver) if SHARED_DRIVERS.contains(&driver.as_str()) => Ok(()),
        Some(driver) if driver == "vfio-pci" => check_vfio(root, &device, address),
        Some(driver) if USER_DRIVERS.contains(&driver.as_str()) => Ok(()),
        Some(driver) => {
            let interface = first_entry(&device.join("net"))
                .map(|name| format!(" as interface {name}"))
                .unwrap_or_default();
            Err(format!(
                "PCI device {address} belongs to the kernel driver {driver}{interface} (give it to DPDK: `{bind}`)"
            ))
        }
    }
}

/// vfio-pci has the device; is there an IOMMU, or leave to do without?
fn check_vfio(root: &Path, device: &Path, address: PciAddress) -> Result<(), String> {
    let noiommu = root.join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    let unsafe_allowed =
        fs::read_to_string(noiommu).is_ok_and(|value| value.starts_with(['Y', '1']));
    if !device.join("iommu_group").exists() && !unsafe_allowed {
        return Err(format!(
            "PCI device {address} is bound to vfio-pci but the machine has no IOMMU (switch it on in the firmware and \
             boot with intel_iommu=on or amd_iommu=on, iommu=pt; without any: \
             `echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode`)"
        ));
    }
    if !root.join("dev/vfio/vfio").exists() {
        return Err(format!(
            "PCI device {address} is bound to vfio-pci but /dev/vfio/vfio is missing (`modprobe vfio-pci`; in a \
             container, pass /dev/vfio in)"
        ));
    }
    Ok(())
}

fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn first_entry(dir: &Path) -> Option<String> {
    let entry = fs::read_dir(dir).ok()?.next()?.ok()?;
    Some(entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A sysfs with one card, bound to `driver`.
    fn machine(driver: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/bus/pci/devices/0000:3b:00.0");
        fs::create_dir_all(device.join("net/eth7")).unwrap();
        fs::write(device.join("class"), "0x020000\n").unwrap();
        if let Some(driver) = driver {
            let target = root.path().join("sys/bus/pci/drivers").join(driver);
            fs::create_dir_all(&target).unwrap();
            symlink(target, device.join("driver")).unwrap();
        }
        root
    }

    fn sentence(root: &tempfile::TempDir, address: &str) -> String {
        check_under(root.path(), address.parse().unwrap()).unwrap_err()
    }

    #[test]
    fn every_obstacle_names_the_way_out() {
        let empty = tempfile::tempdir().unwrap();
        assert!(sentence(&empty, "3b:00.0").contains("no PCI bus"));
        let unbound = machine(None);
        assert!(sentence(&unbound, "3b:00.1").contains("--status-dev net"));
        assert!(
            sentence(&unbound, "3b:00.0")
                .contains("modprobe vfio-pci && dpdk-devbind.py -b vfio-pci 0000:3b:00.0")
        );
        let kernel = sentence(&machine(Some("igb")), "3b:00.0");
        assert!(
            kernel.contains("kernel driver igb as interface eth7"),
            "{kernel}"
        );
        let disk = machine(Some("nvme"));
        fs::write(
            disk.path().join("sys/bus/pci/devices/0000:3b:00.0/class"),
            "0x010802\n",
        )
        .unwrap();
        assert!(sentence(&disk, "3b:00.0").contains("no network card"));
    }

    #[test]
    fn vfio_needs_an_iommu_or_leave_to_do_without() {
        let root = machine(Some("vfio-pci"));
        assert!(sentence(&root, "3b:00.0").contains("no IOMMU"));
        let parameters = root.path().join("sys/module/vfio/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::write(parameters.join("enable_unsafe_noiommu_mode"), "Y\n").unwrap();
        assert!(sentence(&root, "3b:00.0").contains("/dev/vfio/vfio is missing"));
        fs::create_dir_all(root.path().join("dev/vfio")).unwrap();
        fs::write(root.path().join("dev/vfio/vfio"), "").unwrap();
        assert_eq!(check_under(root.path(), "3b:00.0".parse().unwrap()), Ok(()));
    }

    #[test]
    fn cards_that_share_their_driver_stay_with_it() {
        let root = machine(Some("mlx5_core"));
        assert_eq!(check_under(root.path(), "3b:00.0".parse().unwrap()), Ok(()));
    }
}
