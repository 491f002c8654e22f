//! Reading device strings, with an error that says what would be right.

use std::str::FromStr;

use super::{Device, DeviceError, MemifRole, PciAddress};

fn wrong<T>(message: impl Into<String>) -> Result<T, DeviceError> {
    Err(DeviceError(message.into()))
}

impl FromStr for PciAddress {
    type Err = DeviceError;

    /// Reads `0000:3b:00.0`, or `3b:00.0` in domain 0.
    fn from_str(text: &str) -> Result<PciAddress, DeviceError> {
        pci_address(text).ok_or_else(|| {
            DeviceError(format!(
                "{text:?} is no PCI address (write 0000:3b:00.0, as lspci -D shows it)"
            ))
        })
    }
}

pub(super) fn pci_address(text: &str) -> Option<PciAddress> {
    let hex = |part: &str, digits: usize| {
        let fits =
            (1..=digits).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u16::from_str_radix(part, 16).ok()).flatten()
    };
    let (rest, function) = text.rsplit_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (hex(domain, 4)?, bus, device),
        [bus, device] => (0, bus, device),
        _ => return None,
    };
    let address = PciAddress {
        domain,
        bus: hex(bus, 2)? as u8,
        device: hex(device, 2)? as u8,
        function: hex(function, 1)? as u8,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Device, DeviceError> {
        let Some((kind, rest)) = text.split_once(':') else {
            return wrong(format!(
                "{text:?} has no device kind (write KIND:WHERE, like pci:0000:3b:00.0 or af_packet:eth1)"
            ));
        };
        match kind {
            "pci" => {
                let (address, args) = rest.split_once(',').unwrap_or((rest, ""));
                Ok(Device::Pci {
                    address: address.parse()?,
                    args: args.to_string(),
                })
            }
            "af_packet" => Ok(Device::AfPacket {
                interface: interface_name(rest)?,
            }),
            "af_xdp" => Ok(Device::AfXdp {
                interface: interface_name(rest)?,
            }),
            "tap" => Ok(Device::Tap {
                name: interface_name(rest)?,
            }),
            "memif" => parse_memif(rest),
            "pcap" => parse_pcap(rest),
            "null" => parse_null(rest),
            "dpdk" if rest.is_empty() => {
                wrong("dpdk: needs device arguments, for example dpdk:net_ring0")
            }
            "dpdk" => Ok(Device::Raw {
                devargs: rest.to_string(),
            }),
            _ => wrong(format!(
                "{kind:?} is no kind of device (known are {})",
                Device::KINDS.join(", ")
            )),
        }
    }
}

/// A name the kernel accepts for an interface and DPDK accepts in an argument.
fn interface_name(name: &str) -> Result<String, DeviceError> {
    let bad = |b: u8| b.is_ascii_whitespace() || b.is_ascii_control() || b"/,:=".contains(&b);
    if name.is_empty() || name.len() > 15 || name.bytes().any(bad) {
        return wrong(format!(
            "{name:?} cannot be an interface name (1 to 15 characters, none of them a space, '/', ',', ':' or '=')"
        ));
    }
    Ok(name.to_string())
}

/// A path that survives DPDK's argument syntax, which has no way to quote a comma.
fn path_name(path: &str) -> Result<String, DeviceError> {
    let bad = |c: char| c.is_control() || "=[]()".contains(c);
    if path.is_empty() || path.chars().any(bad) {
        return wrong(format!(
            "{path:?} cannot be used as a path here (not empty, and none of ',=[]()')"
        ));
    }
    Ok(path.to_string())
}

/// `key=value` words after the first part of a device string.
fn options(text: &str) -> impl Iterator<Item = Result<(&str, &str), DeviceError>> {
    text.split(',').filter(|word| !word.is_empty()).map(|word| {
        word.split_once('=')
            .ok_or_else(|| DeviceError(format!("{word:?} is not KEY=VALUE")))
    })
}

/// A number within bounds, or what it may be.
fn number(key: &str, value: &str, least: u32, most: u32) -> Result<u32, DeviceError> {
    match value.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => wrong(format!(
            "{key}={value} must be a number from {least} to {most}"
        )),
    }
}

fn parse_memif(text: &str) -> Result<Device, DeviceError> {
    let (path, rest) = text.split_once(',').unwrap_or((text, ""));
    let path = path_name(path)?;
    // The limit of a unix socket's address.
    if path.len() > 107 {
        return wrong("the path of a memif socket has at most 107 bytes");
    }
    let (mut role, mut id) = (MemifRole::Server, 0);
    for option in options(rest) {
        match option? {
            ("role", "server") => role = MemifRole::Server,
            ("role", "client") => role = MemifRole::Client,
            ("role", other) => return wrong(format!("role={other} must be client or server")),
            ("id", value) => id = number("id", value, 0, u32::MAX)?,
            (key, _) => return wrong(format!("memif has no option {key:?} (role, id)")),
        }
    }
    Ok(Device::Memif { path, role, id })
}

fn parse_pcap(text: &str) -> Result<Device, DeviceError> {
    let (input, output) = text.split_once(',').unwrap_or((text, ""));
    let file = |name: &str| match name {
        "" => Ok(None),
        name if name.contains(',') => {
            wrong(format!("{name:?}: a pcap device has two files, IN,OUT"))
        }
        name => path_name(name).map(Some),
    };
    let (input, output) = (file(input)?, file(output)?);
    if input.is_none() && output.is_none() {
        return wrong("a pcap device needs a file to read, one to write, or both (pcap:IN,OUT)");
    }
    Ok(Device::Pcap { input, output })
}

fn parse_null(text: &str) -> Result<Device, DeviceError> {
    let (mut size, mut receive) = (64, true);
    for option in options(text) {
        match option? {
            ("size", value) => size = number("size", value, 14, 1518)? as u16,
            ("rx", "yes") => receive = true,
            ("rx", "no") => receive = false,
            ("rx", other) => return wrong(format!("rx={other} must be yes or no")),
            (key, _) => return wrong(format!("null has no option {key:?} (size, rx)")),
        }
    }
    Ok(Device::Null { size, receive })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_reads_and_prints_in_canonical_form() {
        for (written, canonical) in [
            ("pci:0000:3b:00.0", "pci:0000:3b:00.0"),
            ("pci:3B:0.1,rx-burst=1", "pci:0000:3b:00.1,rx-burst=1"),
            ("af_packet:eth1", "af_packet:eth1"),
            ("af_xdp:ens3f0", "af_xdp:ens3f0"),
            ("tap:nat0", "tap:nat0"),
            ("memif:/run/m.sock", "memif:/run/m.sock"),
            ("memif:/run/m.sock,id=0,role=server", "memif:/run/m.sock"),
            ("memif:/m,id=7,role=client", "memif:/m,role=client,id=7"),
            ("pcap:a.pcap,b.pcap", "pcap:a.pcap,b.pcap"),
            ("pcap:,b.pcap", "pcap:,b.pcap"),
            ("pcap:a.pcap", "pcap:a.pcap,"),
            ("null:", "null:"),
            ("null:rx=no,size=128", "null:size=128,rx=no"),
            ("dpdk:net_ring0", "dpdk:net_ring0"),
        ] {
            let device: Device = written.parse().unwrap();
            assert_eq!(device.to_string(), canonical);
            assert_eq!(canonical.parse::<Device>().unwrap(), device);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (written, said) in [
            ("eth1", "has no device kind"),
            ("wifi:0", "is no kind of device"),
            ("pci:3b", "PCI address"),
            ("pci:0000:3b:20.0", "PCI address"),
            ("pci:0000:3b:00.8", "PCI address"),
            ("pci:0000:+b:00.0", "PCI address"),
            ("af_packet:", "interface name"),
            ("tap:a_name_far_too_long", "interface name"),
            ("af_xdp:eth0,busy=1", "interface name"),
            ("memif:", "path"),
            ("memif:/m,role=boss", "client or server"),
            ("memif:/m,id=-1", "from 0"),
            ("memif:/m,colour=red", "no option"),
            ("pcap:,", "needs a file"),
            ("pcap:a,b,c", "two files"),
            ("null:size=9", "from 14"),
            ("null:64", "KEY=VALUE"),
            ("dpdk:", "device arguments"),
        ] {
            let error = written.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(said), "{written}: {error}");
        }
    }

    proptest! {
        /// Whatever is accepted prints as something that reads back equal; nothing panics.
        #[test]
        fn any_text_is_refused_or_survives_a_round_trip(text in "(pci|memif|pcap|null|tap|dpdk|x):[ -~]{0,24}") {
            if let Ok(device) = text.parse::<Device>() {
                prop_assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
            }
        }
    }
}
