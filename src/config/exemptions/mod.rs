//! Exemption lists that other systems maintain: `[[exempt]] file`.
//!
//! The file of a Kubernetes ip-masq-agent (or of its Azure and Cilium dialects) is read as it is.
//! [`ExemptFile::read`] turns it into the prefixes in force, or says everything that is wrong with it; what then stays
//! in force is the caller's business: the last good list while natgate runs, the `missing` list before there was one.
//!
//! | the file | in force |
//! |---|---|
//! | is absent | the `missing` list |
//! | has no list | the default list of its dialect, which `missing` names |
//! | has a list, also an empty one | that list |
//! | cannot be read, is no such file, lists too much or something wrong | as before |
//!
//! Link-local prefixes are listed besides, unless the file says `masqLinkLocal`.

pub mod content;
mod duration;

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use content::Content;
pub use content::{Listed, Remark};

/// Longer files are refused: what Kubernetes can put into one is no longer than this.
const MAX_BYTES: u64 = 1 << 20;

/// Prefixes in a file, where its dialect has a limit and neither file nor configuration set one.
pub const DEFAULT_LIMIT: usize = 64;

/// The private ranges: the agent's default list.
pub const RFC1918: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];

/// Private and otherwise reserved ranges: the agent's longer default list, and Cilium's.
pub const RESERVED: &[&str] = &[
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
];

/// Link-local prefixes, IPv4 and IPv6.
pub const LINK_LOCAL: (&str, &str) = ("169.254.0.0/16", "fe80::/10");

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Kubernetes' ip-masq-agent: one file.
    IpMasqAgent,
    /// Azure's version of it: every file `ip-masq*` of a directory.
    Azure,
    /// Cilium's version of it: one file.
    Cilium,
}

impl Format {
    /// All of them.
    pub const ALL: &'static [Format] = &[Format::IpMasqAgent, Format::Azure, Format::Cilium];

    /// The name in the configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Format::IpMasqAgent => "ip-masq-agent",
            Format::Azure => "azure-ipmasq",
            Format::Cilium => "cilium-ipmasq",
        }
    }

    /// Where the program itself looks.
    pub const fn default_path(self) -> &'static str {
        match self {
            Format::IpMasqAgent | Format::Cilium => "/etc/config/ip-masq-agent",
            Format::Azure => "/etc/config",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What counts without a file, and without a list in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The private ranges.
    Rfc1918,
    /// Private and otherwise reserved ranges.
    Reserved,
    /// Nothing but link-local.
    Empty,
    /// It is an error; a file without a list has the private ranges.
    Error,
}

/// `[[exempt]] file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExemptFile {
    /// The file, or with Azure's format the directory.
    pub path: PathBuf,
    /// Whose file it is.
    pub format: Format,
    /// How often it is read, unless it says itself.
    pub resync: Duration,
    /// Prefixes it may list, unless it says itself.
    pub limit: usize,
    /// What counts without it.
    pub missing: Missing,
    /// The prefixes in force.
    pub list: Vec<Entry>,
}

/// A prefix of a list in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The prefix.
    pub net: IpNet,
    /// Where it comes from: `builtin link-local`, `default rfc1918`, `file PATH:LINE`.
    pub origin: String,
}

/// A list that was read and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Its prefixes, link-local first.
    pub entries: Vec<Entry>,
    /// When to read it again.
    pub resync: Duration,
    /// Keys without effect, each with its place.
    pub remarks: Vec<String>,
}

impl ExemptFile {
    /// Reads the file. `ipv6`: the gateway has IPv6 addresses, so that IPv6 prefixes mean something.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn read(&self, ipv6: bool) -> Result<List, Vec<String>> {
        let mut contents = Vec::new();
        let mut mistakes = Vec::new();
        for path in self
            .files()
            .map_err(|e| vec![format!("{}: {e}", self.path.display())])?
        {
            let place = path.display().to_string();
            match read_text(&path) {
                Ok(None) => {}
                Ok(Some(text)) => match content::parse(&text, self.format) {
                    Ok(content) => contents.push((place, content)),
                    Err(found) => mistakes.extend(found.iter().map(|r| placed(&place, r))),
                },
                Err(why) => mistakes.push(format!("{place}: {why}")),
            }
        }
        if contents.is_empty() && mistakes.is_empty() && self.missing == Missing::Error {
            mistakes.push(format!("{}: does not exist", self.path.display()));
        }
        for (place, content) in &contents {
            mistakes.extend(self.check(place, content, ipv6));
        }
        match mistakes.is_empty() {
            true => Ok(self.assemble(&contents, ipv6)),
            false => Err(mistakes),
        }
    }

    /// The files to read, existing or not.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        if self.format != Format::Azure {
            return Ok(vec![self.path.clone()]);
        }
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("ip-masq") {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    /// What only shows against the configuration: too many prefixes, IPv6 ones without IPv6.
    fn check(&self, place: &str, content: &Content, ipv6: bool) -> Vec<String> {
        let mut mistakes = Vec::new();
        let count = content
            .prefixes
            .as_ref()
            .map_or(self.defaults(content).len(), Vec::len);
        let limit = content.limit.unwrap_or(self.limit);
        if self.format != Format::Cilium && count > limit {
            mistakes.push(format!(
                "{place}: {count} prefixes, at most {limit} are allowed (link-local ones not counted; cidrLimit in the file or limit in the configuration raise it)"
            ));
        }
        let foreign = content
            .prefixes
            .iter()
            .flatten()
            .filter(|p| p.net.addr().is_ipv6() && !ipv6);
        mistakes.extend(foreign.map(|p| {
            let line = p.line;
            format!(
                "{place}:{line}: {} is an IPv6 prefix, but no interface has an IPv6 address",
                p.net
            )
        }));
        mistakes
    }

    fn assemble(&self, contents: &[(String, Content)], ipv6: bool) -> List {
        let mut entries = link_local(
            !contents.iter().any(|(_, c)| c.link_local),
            ipv6 && !contents.iter().any(|(_, c)| c.link_local_v6),
        );
        let mut add = |entry: Entry| {
            if !entries.iter().any(|known| known.net == entry.net) {
                entries.push(entry);
            }
        };
        if contents.is_empty() {
            self.absent().into_iter().for_each(&mut add);
        }
        for (place, content) in contents {
            match &content.prefixes {
                Some(list) => list.iter().for_each(|p| {
                    add(Entry {
                        net: p.net,
                        origin: format!("file {place}:{}", p.line),
                    });
                }),
                None => self.defaults(content).into_iter().for_each(&mut add),
            }
        }
        let remarks = contents
            .iter()
            .flat_map(|(place, content)| content.remarks.iter().map(|r| placed(place, r)));
        List {
            remarks: remarks.collect(),
            resync: contents
                .iter()
                .find_map(|(_, c)| c.resync)
                .unwrap_or(self.resync),
            entries,
        }
    }

    /// The list of a file without one: the agent decodes over its defaults, the others over nothing, except that Cilium
    /// takes a file without a byte for no file.
    fn defaults(&self, content: &Content) -> Vec<Entry> {
        match self.format {
            Format::IpMasqAgent => self.absent(),
            Format::Cilium if content.empty => self.absent(),
            Format::Azure | Format::Cilium => Vec::new(),
        }
    }

    /// The list that counts without a file, link-local not included.
    fn absent(&self) -> Vec<Entry> {
        let (list, name) = match self.missing {
            Missing::Rfc1918 | Missing::Error => (RFC1918, "default rfc1918"),
            Missing::Reserved => (RESERVED, "default reserved"),
            Missing::Empty => (&[][..], ""),
        };
        list.iter().filter_map(|text| entry(text, name)).collect()
    }

    /// What is in force before anything good was read: the list that counts without a file.
    pub fn fallback(&self, ipv6: bool) -> Vec<Entry> {
        let mut entries = link_local(true, ipv6);
        entries.extend(self.absent());
        entries
    }

    /// A value that changes when the file does, also when only what a link leads to changed.
    pub fn fingerprint(&self) -> Fingerprint {
        let of = |path: PathBuf| {
            let meta = fs::metadata(&path).ok();
            let times = meta.map(|m| {
                [
                    m.dev(),
                    m.ino(),
                    m.size(),
                    m.mtime() as u64,
                    m.mtime_nsec() as u64,
                    m.ctime() as u64,
                    m.ctime_nsec() as u64,
                ]
            });
            (path, times)
        };
        Fingerprint(
            self.files()
                .unwrap_or_default()
                .into_iter()
                .map(of)
                .collect(),
        )
    }

    /// Whether both are the same file read the same way, so that a list of one may stand in for the other.
    pub fn is_like(&self, other: &ExemptFile) -> bool {
        (&self.path, self.format) == (&other.path, other.format)
    }
}

/// What tells versions of a file apart without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<[u64; 7]>)>);

fn placed(place: &str, remark: &Remark) -> String {
    match remark.line {
        0 => format!("{place}: {}", remark.text),
        line => format!("{place}:{line}: {}", remark.text),
    }
}

fn link_local(v4: bool, v6: bool) -> Vec<Entry> {
    let both = [(v4, LINK_LOCAL.0), (v6, LINK_LOCAL.1)];
    let listed = both.iter().filter(|(on, _)| *on);
    listed
        .filter_map(|(_, text)| entry(text, "builtin link-local"))
        .collect()
}

fn entry(prefix: &str, origin: &str) -> Option<Entry> {
    let net = prefix.parse().ok()?;
    let origin = origin.to_owned();
    Some(Entry { net, origin })
}

/// The text of a file; `None` when it does not exist.
///
/// # Errors
/// Why it cannot be read.
pub fn read_text(path: &Path) -> Result<Option<String>, String> {
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta.map_err(|e| format!("cannot be read: {e}"))?,
    };
    // Opening a pipe would wait for somebody to write.
    if !meta.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| "is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, format: Format) -> ExemptFile {
        ExemptFile {
            path: path.to_path_buf(),
            format,
            resync: Duration::from_secs(60),
            limit: DEFAULT_LIMIT,
            missing: Missing::Rfc1918,
            list: Vec::new(),
        }
    }

    /// The prefixes, link-local ones marked by a star.
    fn nets(list: &List) -> Vec<String> {
        let star = |e: &Entry| {
            if e.origin == "builtin link-local" {
                "*"
            } else {
                ""
            }
        };
        list.entries
            .iter()
            .map(|e| format!("{}{}", star(e), e.net))
            .collect()
    }

    #[test]
    fn absent_empty_and_good_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ip-masq-agent");
        let agent = file(&path, Format::IpMasqAgent);
        let default = [
            "*169.254.0.0/16",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
        ];
        assert_eq!(nets(&agent.read(false).unwrap()), default);
        fs::write(&path, "").unwrap();
        assert_eq!(nets(&agent.read(false).unwrap()), default);
        fs::write(&path, "nonMasqueradeCIDRs: []\n").unwrap();
        assert_eq!(
            nets(&agent.read(true).unwrap()),
            ["*169.254.0.0/16", "*fe80::/10"]
        );
        fs::write(
            &path,
            "nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqLinkLocal: true\nresyncInterval: 2s\nx: 1",
        )
        .unwrap();
        let list = agent.read(false).unwrap();
        assert_eq!(
            (nets(&list), list.resync),
            (vec!["10.0.0.0/8".to_owned()], Duration::from_secs(2))
        );
        assert_eq!(list.entries[0].origin, format!("file {}:1", path.display()));
        assert!(
            list.remarks[0].ends_with(":4: unknown key \"x\": it has no effect"),
            "{:?}",
            list.remarks
        );
        let reserved = ExemptFile {
            missing: Missing::Reserved,
            path: "/nonexistent".into(),
            ..agent.clone()
        };
        assert_eq!(reserved.read(false).unwrap().entries.len(), 12);
        let strict = ExemptFile {
            missing: Missing::Error,
            ..reserved
        };
        assert!(strict.read(false).unwrap_err()[0].contains("does not exist"));
    }

    #[test]
    fn limits_and_families() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let agent = file(&path, Format::IpMasqAgent);
        let many: Vec<String> = (0..65).map(|i| format!("10.{i}.0.0/16")).collect();
        let text = format!("nonMasqueradeCIDRs: [{}]\n", many.join(","));
        fs::write(&path, &text).unwrap();
        let why = agent.read(false).unwrap_err();
        assert!(why[0].contains("65") && why[0].contains("64"), "{why:?}");
        assert!(file(&path, Format::Cilium).read(false).is_ok());
        fs::write(&path, format!("{text}cidrLimit: 128\n")).unwrap();
        assert_eq!(agent.read(false).unwrap().entries.len(), 66);
        fs::write(&path, "cidrLimit: 0\n").unwrap();
        assert!(agent.read(false).is_err(), "the default list counts, too");
        fs::write(&path, "nonMasqueradeCIDRs: ['fd00::/8']\n").unwrap();
        assert!(agent.read(false).unwrap_err()[0].contains("fd00::/8"));
        assert!(agent.read(true).is_ok());
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let agent = file(&path, Format::IpMasqAgent);
        fs::write(&path, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        assert!(agent.read(false).unwrap_err()[0].contains("longer"));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(agent.read(false).unwrap_err()[0].contains("UTF-8"));
        assert!(
            file(dir.path(), Format::IpMasqAgent)
                .read(false)
                .unwrap_err()[0]
                .contains("regular")
        );
    }

    #[test]
    fn azure_merges_a_directory_and_cilium_has_its_own_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let azure = file(dir.path(), Format::Azure);
        assert_eq!(
            azure.read(false).unwrap().entries.len(),
            4,
            "none found: the defaults"
        );
        fs::write(
            dir.path().join("ip-masq-agent"),
            "{\"nonMasqueradeCIDRs\": [\"10.0.0.0/8\", \"11.0.0.0/8\"]}",
        )
        .unwrap();
        fs::write(
            dir.path().join("ip-masq-agent-reconciled"),
            "nonMasqueradeCIDRs: [11.0.0.0/8, 12.0.0.0/8]\nmasqLinkLocal: true\n",
        )
        .unwrap();
        fs::write(dir.path().join("other"), "*").unwrap();
        assert_eq!(
            nets(&azure.read(false).unwrap()),
            ["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"]
        );
        fs::write(dir.path().join("ip-masq-x"), "*").unwrap();
        assert!(azure.read(false).is_err(), "one bad file refuses all");
        let path = dir.path().join("c");
        let cilium = ExemptFile {
            missing: Missing::Reserved,
            ..file(&path, Format::Cilium)
        };
        assert_eq!(cilium.read(false).unwrap().entries.len(), 12);
        fs::write(&path, "").unwrap();
        assert_eq!(cilium.read(false).unwrap().entries.len(), 12);
        fs::write(&path, "masqLinkLocal: false\n").unwrap();
        assert_eq!(nets(&cilium.read(false).unwrap()), ["*169.254.0.0/16"]);
    }

    #[test]
    fn fingerprints_see_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("v1")).unwrap();
        fs::create_dir(at("v2")).unwrap();
        fs::write(at("v1/f"), "a").unwrap();
        fs::write(at("v2/f"), "a").unwrap();
        std::os::unix::fs::symlink("v1", at("data")).unwrap();
        std::os::unix::fs::symlink("data/f", at("f")).unwrap();
        let agent = file(&at("f"), Format::IpMasqAgent);
        let before = agent.fingerprint();
        assert_eq!(before, agent.fingerprint());
        std::os::unix::fs::symlink("v2", at("next")).unwrap();
        fs::rename(at("next"), at("data")).unwrap();
        assert_ne!(before, agent.fingerprint());
    }
}
