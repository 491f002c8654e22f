//! The command line as types; help, completions and the manual page are made from them.

use super::bench::BenchArgs;
use super::change::{AddArgs, DeleteArgs, DiffArgs, ReloadArgs, RollbackArgs, SaveArgs, SetArgs};
use crate::config::DEFAULT_PATH;
use crate::control::api::{Document, Listing, explain, filter};
use crate::import::Format;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A NAT gateway on DPDK: run it, ask it, change it.
#[derive(Debug, Parser)]
#[command(
    name = "natgate",
    version,
    about,
    disable_help_subcommand = true,
    max_term_width = 110
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 the daemon is not reachable, \
                        5 refused by the running daemon."
)]
pub struct Cli {
    /// Control socket of the running daemon [default: /run/natgate/INSTANCE.sock].
    #[arg(long, global = true, value_name = "PATH", env = "NATGATE_SOCKET")]
    pub socket: Option<PathBuf>,

    /// Which of several daemons on this machine.
    #[arg(long, global = true, value_name = "NAME", default_value = "natgate")]
    pub instance: String,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The socket to talk to.
    pub fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| default_socket(&self.instance))
    }
}

/// The control socket of an instance, unless its configuration says otherwise.
pub fn default_socket(instance: &str) -> PathBuf {
    PathBuf::from(format!("/run/natgate/{instance}.sock"))
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground.
    Run(RunArgs),
    /// Check a configuration as a reload would, and show what it amounts to.
    Check(CheckArgs),
    /// Put a configuration into force without losing a packet or a session.
    Reload(ReloadArgs),
    /// Keep a change made with --confirm.
    Confirm {
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Go back to an earlier configuration.
    Rollback(RollbackArgs),
    /// Add an object to the running configuration, a member to a set, an address to an interface.
    Add(Box<AddArgs>),
    /// Take something out of the running configuration.
    Delete(Box<DeleteArgs>),
    /// Change a key of the running configuration.
    Set(SetArgs),
    /// Write the running configuration to the file the daemon starts from; comments and order stay.
    Save(SaveArgs),
    /// Compare a configuration with the running one.
    Diff(DiffArgs),
    /// Show something of the running gateway.
    Show(ShowArgs),
    /// Say what would happen to a packet, stage by stage, with the rule that decides.
    Explain(ExplainArgs),
    /// End sessions or zero counters.
    #[command(subcommand)]
    Clear(ClearCommand),
    /// Say whose an outside port is, or which ones a subscriber has, by the deterministic pools of a configuration.
    Lookup(LookupArgs),
    /// Turn another system's configuration into a drop-in, with a report line for every statement.
    Import(ImportArgs),
    /// Measure the packet path of this machine without a network card.
    Bench(Box<BenchArgs>),
    /// Print a completion script for a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    #[command(hide = true)]
    Man,
}

/// `natgate run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

/// `natgate check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration.
    #[arg(value_name = "FILE", default_value = DEFAULT_PATH)]
    pub file: PathBuf,
}

/// `natgate lookup`.
#[derive(Args, Debug)]
pub struct LookupArgs {
    /// A subscriber's address, or an outside address and port.
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub endpoint: String,
    /// The configuration: for the past, the one of that time.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `natgate import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// What the files are.
    #[arg(value_name = "FORMAT", value_parser = PossibleValuesParser::new(Format::ALL.iter().map(|(name, _)| *name)))]
    pub format: String,
    /// The files; with azure-ipmasq the directory.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Interfaces that are called otherwise here.
    #[arg(long, value_name = "THEIRS=OURS", value_delimiter = ',', value_parser = mapping)]
    pub map: Vec<(String, String)>,
    /// Write what could be said although something was rejected.
    #[arg(long)]
    pub best_effort: bool,
    /// Let notes and warnings count as rejections.
    #[arg(long)]
    pub strict: bool,
    /// Where to write the drop-in [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The configuration the drop-in is for: its interfaces, addresses and routes [default: the installed one].
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    /// Interfaces of the inside, where the original says nothing about sources [default: those without a default route].
    #[arg(long = "in", value_name = "IFACE", value_delimiter = ',')]
    pub inside: Vec<String>,
    /// The agent runs with IPv6.
    #[arg(long)]
    pub enable_ipv6: bool,
    /// Follow the file instead of copying its list.
    #[arg(long)]
    pub live: bool,
    /// Take masqueradeCIDRs, which no agent reads.
    #[arg(long)]
    pub accept_masquerade_cidrs: bool,
    /// The agent runs with this option.
    #[arg(long)]
    pub nomasq_all_reserved_ranges: bool,
    /// The agent's option; false keeps free source ports.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub random_fully: bool,
    /// The agent's option: ports to translate to.
    #[arg(long, value_name = "PORTS")]
    pub to_ports: Option<String>,
    /// Write kube-proxy's service chains of iptables-save as services.
    #[arg(long)]
    pub expand_kube: bool,
    /// The host that port mappings of a Windows node lead to.
    #[arg(long, value_name = "IP")]
    pub target: Option<std::net::Ipv4Addr>,
}

fn mapping(text: &str) -> Result<(String, String), String> {
    let (theirs, ours) = text.split_once('=').ok_or("write THEIRS=OURS")?;
    Ok((theirs.to_owned(), ours.to_owned()))
}

/// `natgate show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// What to show.
    #[arg(value_name = "WHAT", value_parser = PossibleValuesParser::new(everything()))]
    pub what: String,
    /// Conditions, `KEY VALUE` or `KEY=VALUE`.
    #[arg(value_name = "FILTER", help = format!("Conditions, KEY VALUE or KEY=VALUE: {}; `verbose` for more columns", filter::KEYS))]
    pub words: Vec<String>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Show it again every so many seconds, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true)]
    pub watch: Option<u64>,
    /// With `drops`: what each reason means and what to look at.
    #[arg(long)]
    pub explain: bool,
}

/// `natgate explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The packet.
    #[arg(value_name = "KEY=VALUE", required = true, help = format!("The packet: {}", explain::QUESTION))]
    pub words: Vec<String>,
    /// Ask this configuration instead of the running gateway.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `natgate clear`.
#[derive(Debug, Subcommand)]
pub enum ClearCommand {
    /// End sessions; without a filter all of them.
    Sessions {
        /// Conditions, `KEY VALUE` or `KEY=VALUE`.
        #[arg(value_name = "FILTER")]
        words: Vec<String>,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let packet and rule counters start from 0 again (metrics go on).
    Counters {
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Every `WHAT` of `show`.
fn everything() -> Vec<&'static str> {
    let documents = Document::ALL.iter().map(|d| d.name());
    documents
        .chain(Listing::ALL.iter().map(|l| l.name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sockets_follow_the_instance_unless_named() {
        let cli = Cli::try_parse_from(["natgate", "show", "status", "--instance", "b"]).unwrap();
        assert_eq!(cli.socket(), PathBuf::from("/run/natgate/b.sock"));
        let cli = Cli::try_parse_from(["natgate", "--socket", "/tmp/x", "show", "status"]).unwrap();
        assert_eq!(cli.socket(), PathBuf::from("/tmp/x"));
    }

    #[test]
    fn filters_and_flags_mix() {
        let line = [
            "natgate",
            "show",
            "sessions",
            "ip",
            "10.0.0.2",
            "--json",
            "max",
            "3",
            "--watch=5",
        ];
        let Command::Show(show) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not a show");
        };
        assert_eq!(
            (show.what.as_str(), show.json, show.watch),
            ("sessions", true, Some(5))
        );
        assert_eq!(show.words, ["ip", "10.0.0.2", "max", "3"]);
        assert!(Cli::try_parse_from(["natgate", "show", "nonsense"]).is_err());
    }
}
