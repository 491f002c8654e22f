//! Importers: other systems' configurations as a drop-in for `natgate.d`, with a report line for every statement.
//!
//! An import reads files and writes text; it never touches a running gateway. What cannot be said in natgate's language is
//! rejected with a code, what comes out differently is warned of, and nothing changes its meaning silently.

mod acl;
mod cnat;
mod configmap;
mod emit;
mod iptables;
mod libvirt;
mod lists;
pub mod report;
mod windows;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crate::config::Validated;
use crate::config::exemptions::Format as ListFormat;
pub use report::{Level, Line, Report};

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file of Kubernetes' ip-masq-agent.
    IpMasqAgent,
    /// The file of Cilium's ip-masq-agent.
    Cilium,
    /// The directory of Azure's ip-masq-agent.
    Azure,
    /// A Kubernetes ConfigMap that holds one of them.
    ConfigMap,
    /// A CNI configuration of Windows nodes.
    CniWindows,
    /// The XML of a libvirt network.
    LibvirtNetwork,
    /// What `iptables-save` writes.
    Iptables,
    /// What `ip6tables-save` writes.
    Ip6tables,
    /// Commands and startup stanza of VPP's cnat.
    Cnat,
}

impl Format {
    /// All of them, with their names.
    pub const ALL: &'static [(&'static str, Format)] = &[
        ("ip-masq-agent", Format::IpMasqAgent),
        ("cilium-ipmasq", Format::Cilium),
        ("azure-ipmasq", Format::Azure),
        ("configmap", Format::ConfigMap),
        ("cni-windows", Format::CniWindows),
        ("libvirt-network", Format::LibvirtNetwork),
        ("iptables-save", Format::Iptables),
        ("ip6tables-save", Format::Ip6tables),
        ("cnat", Format::Cnat),
    ];

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Format> {
        let found = Format::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, format)| *format)
    }

    fn name(self) -> &'static str {
        let found = Format::ALL.iter().find(|(_, format)| *format == self);
        found.map_or("", |(name, _)| name)
    }
}

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Interfaces by their name in the input and their name here.
    pub map: Vec<(String, String)>,
    /// Interfaces of the inside, for formats that say nothing about sources.
    pub inside: Vec<String>,
    /// The agent's `--enable-ipv6`.
    pub enable_ipv6: bool,
    /// Follow the file instead of copying its list.
    pub live: bool,
    /// Take `masqueradeCIDRs`, which no agent reads.
    pub accept_masquerade_cidrs: bool,
    /// The agent's `--nomasq-all-reserved-ranges`.
    pub all_reserved: bool,
    /// The agent's `--random-fully=false`.
    pub keep_ports: bool,
    /// The agent's `--to-ports`.
    pub to_ports: Option<String>,
    /// Write kube-proxy's service chains as services.
    pub expand_kube: bool,
    /// Where port forwards lead that name no host.
    pub target: Option<Ipv4Addr>,
    /// The configuration the result is to be added to, as far as it is known.
    pub base: Option<Validated>,
}

impl Options {
    /// The interface here that the input calls `name`, and whether it is known to exist.
    fn interface(&self, name: &str) -> (String, bool) {
        let mapped = self.map.iter().find(|(from, _)| from == name);
        let here = mapped.map_or(name, |(_, to)| to.as_str());
        let exists = self
            .base
            .as_ref()
            .is_some_and(|base| base.interface(here).is_some());
        (here.to_owned(), mapped.is_some() || exists)
    }

    /// The interfaces of the inside: those given, or all that no default route leaves through.
    fn inside(&self) -> Result<Vec<String>, String> {
        if !self.inside.is_empty() {
            return Ok(self.inside.clone());
        }
        let base = self.base.as_ref().ok_or(
            "which interfaces subscribers are behind is not known: the original says nothing about sources (give --in IFACE, or the configuration with --base)",
        )?;
        let is_uplink = |index: usize| {
            let defaults = base.routes.iter().filter(|r| r.prefix.prefix_len() == 0);
            defaults.into_iter().any(|route| {
                let named = route.interface.is_some_and(|id| id.index() == index);
                named
                    || route
                        .via
                        .iter()
                        .any(|via| base.interfaces[index].is_connected(*via))
            })
        };
        let inside = (0..base.interfaces.len()).filter(|i| !is_uplink(*i));
        let names: Vec<String> = inside
            .map(|i| base.interfaces[i].label.name.clone())
            .collect();
        match names.is_empty() {
            true => Err("every interface has a default route (give --in IFACE)".to_owned()),
            false => Ok(names),
        }
    }
}

/// A text to import.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name in the report.
    pub name: String,
    /// The file, if it is one.
    pub path: Option<PathBuf>,
    /// Its content.
    pub text: String,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// A drop-in; to be used only if nothing was rejected, or knowing what.
    pub toml: String,
    /// A line for every statement.
    pub report: Report,
}

/// Imports files.
///
/// # Errors
/// When a file cannot be read, or something about the import is not known; with advice.
pub fn import_files(
    format: Format,
    paths: &[PathBuf],
    options: &Options,
) -> Result<Import, String> {
    let mut before = Report::default();
    let mut inputs = Vec::new();
    for path in paths {
        match format {
            Format::Azure => inputs.extend(directory(path, &mut before)?),
            _ => inputs.push(file(path)?),
        }
    }
    let mut import = import(format, &inputs, options)?;
    before.lines.append(&mut import.report.lines);
    import.report.lines = before.lines;
    Ok(import)
}

fn file(path: &Path) -> Result<Input, String> {
    let shown = path.display();
    let text = fs::read(path).map_err(|e| format!("{shown}: cannot be read: {e}"))?;
    Ok(Input {
        name: path.file_name().map_or_else(
            || shown.to_string(),
            |name| name.to_string_lossy().into_owned(),
        ),
        path: Some(path.to_path_buf()),
        text: String::from_utf8(text).map_err(|_| format!("{shown}: is not UTF-8"))?,
    })
}

/// The files of Azure's directory; others are noted.
fn directory(path: &Path, report: &mut Report) -> Result<Vec<Input>, String> {
    let failed = |e: std::io::Error| {
        format!(
            "{}: cannot be listed: {e} (azure-ipmasq takes a directory)",
            path.display()
        )
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    let mut inputs = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match name.starts_with("ip-masq") {
            true => inputs.push(file(path)?),
            false => report.note(&name, "", "not read: its name does not begin with ip-masq"),
        }
    }
    Ok(inputs)
}

/// Imports texts.
///
/// # Errors
/// When something about the import is not known; with advice.
pub fn import(format: Format, inputs: &[Input], options: &Options) -> Result<Import, String> {
    let mut report = Report::default();
    let tables = match format {
        Format::IpMasqAgent => {
            lists::import(ListFormat::IpMasqAgent, inputs, options, &mut report)?
        }
        Format::Cilium => lists::import(ListFormat::Cilium, inputs, options, &mut report)?,
        Format::Azure => lists::import(ListFormat::Azure, inputs, options, &mut report)?,
        Format::ConfigMap => configmap::import(inputs, options, &mut report)?,
        Format::CniWindows => windows::import(inputs, options, &mut report)?,
        Format::LibvirtNetwork => libvirt::import(inputs, options, &mut report),
        Format::Iptables => iptables::import(inputs, false, options, &mut report),
        Format::Ip6tables => iptables::import(inputs, true, options, &mut report),
        Format::Cnat => cnat::import(inputs, options, &mut report),
    };
    let toml = match report.invalid {
        true => String::new(),
        false => format!(
            "# Imported from {} by `natgate import {}`: a drop-in for natgate.d.\n\n{}",
            inputs
                .iter()
                .map(|i| i.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
            format.name(),
            emit::render(&tables)
        ),
    };
    Ok(Import { toml, report })
}

/// An address a host can have.
fn host(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let strange = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || broadcast
        || matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    (!strange).then_some(address)
}
