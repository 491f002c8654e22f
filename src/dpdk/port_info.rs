//! What a port says about itself: abilities, link, counters.

use std::ffi::{CStr, c_char};

use super::error::{Error, attempt};
use super::ffi;
use super::port_config::RssFields;

/// Abilities of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// DPDK's name for it.
    pub name: String,
    /// DPDK's driver.
    pub driver: String,
    /// The NUMA node it hangs on, if it says so.
    pub numa_node: Option<u32>,
    /// Receive queues it can have.
    pub max_rx_queues: u16,
    /// Transmit queues it can have.
    pub max_tx_queues: u16,
    /// Smallest MTU in bytes.
    pub min_mtu: u16,
    /// Largest MTU in bytes.
    pub max_mtu: u16,
    /// Entries of the redirection table; 0: none.
    pub reta_size: u16,
    /// Bytes of the RSS key; 0: it cannot be set.
    pub hash_key_size: u16,
    /// MAC addresses it can filter for.
    pub max_mac_addresses: u32,
    /// What it can hash over.
    pub rss: RssFields,
    /// It can check IPv4 header checksums on receive.
    pub rx_ip_checksum: bool,
    /// It can check TCP and UDP checksums on receive.
    pub rx_l4_checksum: bool,
    /// It can compute IPv4 header checksums on transmit.
    pub tx_ip_checksum: bool,
    /// It can compute TCP and UDP checksums on transmit.
    pub tx_l4_checksum: bool,
}

/// State of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// It carries packets.
    pub up: bool,
    /// Megabits per second, if known.
    pub speed_mbps: Option<u32>,
    /// Both directions at a time.
    pub full_duplex: bool,
}

/// Counters every driver has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped because no descriptor was free: the workers are too slow.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets lost because no buffer was free.
    pub rx_no_buffer: u64,
}

fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field
        .iter()
        .map(|&c| c as u8)
        .take_while(|&b| b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn read(id: u16, label: &str) -> Result<PortInfo, Error> {
    let mut raw = ffi::ng_port_info::default();
    attempt(
        || format!("port {label}: cannot ask the device"),
        // SAFETY: the port exists; the pointer is valid for the call.
        || unsafe { ffi::ng_port_info(id, &mut raw) },
    )?;
    let can = |bit| raw.offloads & bit != 0;
    Ok(PortInfo {
        name: text(&raw.name),
        driver: text(&raw.driver),
        numa_node: u32::try_from(raw.numa_node).ok(),
        max_rx_queues: raw.max_rx_queues,
        max_tx_queues: raw.max_tx_queues,
        min_mtu: raw.min_mtu,
        max_mtu: raw.max_mtu,
        reta_size: raw.reta_size,
        hash_key_size: raw.hash_key_size,
        max_mac_addresses: raw.max_mac_addresses,
        rss: RssFields::from_bits(raw.rss),
        rx_ip_checksum: can(ffi::NG_OFFLOAD_RX_IP_CHECKSUM),
        rx_l4_checksum: can(ffi::NG_OFFLOAD_RX_L4_CHECKSUM),
        tx_ip_checksum: can(ffi::NG_OFFLOAD_TX_IP_CHECKSUM),
        tx_l4_checksum: can(ffi::NG_OFFLOAD_TX_L4_CHECKSUM),
    })
}

pub(super) fn link(id: u16, label: &str) -> Result<Link, Error> {
    let mut raw = ffi::ng_link::default();
    attempt(
        || format!("port {label}: cannot read the link state"),
        // SAFETY: the port exists; the pointer is valid for the call.
        || unsafe { ffi::ng_port_link(id, &mut raw) },
    )?;
    Ok(Link {
        up: raw.up != 0,
        speed_mbps: (raw.speed_mbps != 0).then_some(raw.speed_mbps),
        full_duplex: raw.full_duplex != 0,
    })
}

pub(super) fn stats(id: u16, label: &str) -> Result<PortStats, Error> {
    let mut raw = ffi::ng_stats::default();
    attempt(
        || format!("port {label}: cannot read the counters"),
        // SAFETY: the port exists; the pointer is valid for the call.
        || unsafe { ffi::ng_port_stats(id, &mut raw) },
    )?;
    Ok(PortStats {
        rx_packets: raw.rx_packets,
        tx_packets: raw.tx_packets,
        rx_bytes: raw.rx_bytes,
        tx_bytes: raw.tx_bytes,
        rx_missed: raw.rx_missed,
        rx_errors: raw.rx_errors,
        tx_errors: raw.tx_errors,
        rx_no_buffer: raw.rx_no_buffer,
    })
}

pub(super) fn xstats(id: u16, label: &str) -> Result<Vec<(String, u64)>, Error> {
    let what = || format!("port {label}: cannot read the extended counters");
    let fetch = |rows: &mut [ffi::ng_xstat]| {
        // SAFETY: the port exists; the shim writes at most the given number of rows.
        attempt(what, || unsafe {
            ffi::ng_port_xstats(id, rows.as_mut_ptr(), rows.len() as u32)
        })
    };
    let count = fetch(&mut [])? as usize;
    let mut rows = vec![ffi::ng_xstat::default(); count];
    // Only as many as fit were written: none if their number grew in between.
    let count = fetch(&mut rows)? as usize;
    if count > rows.len() {
        rows.clear();
    }
    rows.truncate(count);
    Ok(rows
        .iter()
        .map(|row| {
            // SAFETY: the shim terminates every name.
            let name = unsafe { CStr::from_ptr(row.name.as_ptr()) };
            (name.to_string_lossy().into_owned(), row.value)
        })
        .collect())
}
