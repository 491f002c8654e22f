//! Commands that change the configuration of a running gateway, or compare it.

use super::client::{Client, ClientError};
use super::output::Output;
use super::render::documents;
use super::{Cli, absolute, block_on};
use crate::config::edit::{Edit, Place, kind_names};
use crate::control::api::{
    DiffRequest, Difference, EditRequest, Failure, FailureKind, ReloadRequest, Reloaded,
    RollbackRequest, SaveRequest, Saved, Terms,
};
use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// What every change takes.
#[derive(Args, Debug)]
pub struct ChangeArgs {
    /// Take the change back after this time unless `natgate confirm` follows, e.g. 60s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub confirm: Option<Duration>,
    /// Refuse if the running configuration is not the one of this hash (`natgate show config --json`).
    #[arg(long, value_name = "HASH")]
    pub expect: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

impl ChangeArgs {
    fn terms(&self) -> Result<Terms, Failure> {
        let confirm_seconds = self.confirm.map(|time| time.as_secs());
        if confirm_seconds == Some(0) {
            let why = "a second at least";
            return Err(Failure::new(FailureKind::Usage, "--confirm", why));
        }
        Ok(Terms {
            expect: self.expect.clone(),
            confirm_seconds,
        })
    }
}

/// `natgate reload`.
#[derive(Args, Debug)]
pub struct ReloadArgs {
    /// The configuration [default: the file the daemon was started with].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Conditions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `natgate add`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  natgate add source-nat name=office in=lan0 out=wan0 src=10.1.0.0/16 via=interface --before 1
  natgate add port-forward name=web in=wan0 dst=203.0.113.1 dport=80 to=10.0.0.2:8080 --origin vm-manager
  natgate add pool name=cgn addresses=203.0.113.64-203.0.113.127 block.size=512
  natgate add filter src=@bad action=drop --first
  natgate add set bad 198.51.100.0/24 192.0.2.7
  natgate add set bad - < prefixes.txt
  natgate add address wan0 203.0.113.2/24 --replace")]
pub struct AddArgs {
    /// What to add; `set` adds members to a named set, `address` an address to an interface.
    #[arg(value_name = "KIND", value_parser = PossibleValuesParser::new(kinds()))]
    pub kind: String,
    /// KEY=VALUE as in the configuration (lists with commas, tables with dots); for `set`: NAME MEMBER… (`-` reads them from
    /// standard input); for `address`: INTERFACE ADDRESS/LENGTH.
    #[arg(value_name = "WORD", required = true)]
    pub words: Vec<String>,
    /// Before all others of its kind.
    #[arg(long, group = "place")]
    pub first: bool,
    /// Before the object of this name or number.
    #[arg(long, value_name = "OBJECT", group = "place")]
    pub before: Option<String>,
    /// Behind the object of this name or number.
    #[arg(long, value_name = "OBJECT", group = "place")]
    pub after: Option<String>,
    /// In whose name: `natgate delete --origin` takes out what has it, and a reload leaves it alone.
    #[arg(long, value_name = "NAME", default_value = "cli")]
    pub origin: String,
    /// With `address`: instead of those of the same family.
    #[arg(long)]
    pub replace: bool,
    /// Conditions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `natgate delete`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["kind", "origin"]))]
#[command(after_help = "Examples:
  natgate delete port-forward web
  natgate delete filter 3
  natgate delete set bad 198.51.100.0/24     (the member; without one the whole set)
  natgate delete address wan0 203.0.113.2/24
  natgate delete --origin vm-manager")]
pub struct DeleteArgs {
    /// What to take out.
    #[arg(value_name = "KIND", value_parser = PossibleValuesParser::new(kinds()), requires = "words")]
    pub kind: Option<String>,
    /// Name or number; for `set`: NAME [MEMBER…] (`-` reads them from standard input); for `address`: INTERFACE ADDRESS.
    #[arg(value_name = "WORD")]
    pub words: Vec<String>,
    /// Everything of this origin: a client's name, or as listings show it, with or without the line.
    #[arg(long, value_name = "NAME")]
    pub origin: Option<String>,
    /// Conditions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `natgate set`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("to").required(true).args(["value", "default"]))]
#[command(after_help = "Examples:
  natgate set timeouts.udp 6m
  natgate set system.sessions_per_host 2000
  natgate set 'source-nat[office].via' pool:cgn
  natgate set filter.rule.3.action drop
  natgate set pool.cgn.drain --default")]
pub struct SetArgs {
    /// TABLE.KEY or KIND.OBJECT.KEY; objects by name or number, in brackets if need be.
    #[arg(value_name = "KEY")]
    pub key: String,
    /// The value; lists with commas, or anything as TOML.
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Take the key out, so that its default holds.
    #[arg(long)]
    pub default: bool,
    /// Conditions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `natgate rollback`.
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// A generation of `natgate show history` [default: the configuration before this one].
    #[arg(value_name = "GENERATION")]
    pub generation: Option<u32>,
    /// Conditions.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `natgate save`.
#[derive(Args, Debug)]
pub struct SaveArgs {
    /// Write also over a file that was changed since natgate read it.
    #[arg(long)]
    pub force: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `natgate diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The configuration to compare with [default: the file the daemon was started with].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Compare with a generation of `natgate show history`.
    #[arg(long, value_name = "GENERATION", conflicts_with = "file")]
    pub generation: Option<u32>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Every `KIND`.
fn kinds() -> impl Iterator<Item = &'static str> {
    kind_names().chain(["set", "address"])
}

/// Sends a request and prints the answer.
fn ask<Q: Serialize, A: DeserializeOwned + Serialize>(
    cli: &Cli,
    path: &str,
    request: &Q,
    json: bool,
    render: impl Fn(&A) -> String,
) -> Result<(), ClientError> {
    let request = serde_json::to_string(request)
        .map_err(|e| Failure::new(FailureKind::Usage, path, e.to_string()))?;
    block_on(async {
        let answer: A = Client::new(cli.socket()).post(path, request).await?;
        let mut out = Output::default();
        match json {
            true => out.json(&answer),
            false => out.text(&render(&answer)),
        }
    })
}

fn edit(
    cli: &Cli,
    edit: Edit,
    client: Option<String>,
    args: &ChangeArgs,
) -> Result<(), ClientError> {
    let request = EditRequest {
        edits: vec![edit],
        client,
        terms: args.terms()?,
    };
    ask(cli, "edit", &request, args.json, documents::reloaded)
}

pub(super) fn reload(cli: &Cli, args: &ReloadArgs) -> Result<(), ClientError> {
    // The daemon has a working directory of its own.
    let request = ReloadRequest {
        file: args.file.as_deref().map(absolute).transpose()?,
        terms: args.change.terms()?,
    };
    ask(
        cli,
        "reload",
        &request,
        args.change.json,
        documents::reloaded,
    )
}

pub(super) fn add(cli: &Cli, args: &AddArgs) -> Result<(), ClientError> {
    let change = match (args.kind.as_str(), args.words.as_slice()) {
        ("set", [set, members @ ..]) => Edit::AddMembers {
            set: set.clone(),
            members: members_of(members)?,
        },
        ("address", [interface, address]) => Edit::AddAddress {
            interface: interface.clone(),
            address: address.clone(),
            replace: args.replace,
        },
        ("address", _) => return Err(usage("add address", "write INTERFACE ADDRESS/LENGTH")),
        (kind, words) => Edit::Add {
            kind: kind.to_owned(),
            values: words
                .iter()
                .map(|word| pair(word))
                .collect::<Result<_, _>>()?,
            place: match (&args.before, &args.after, args.first) {
                (Some(object), _, _) => Place::Before(object.clone()),
                (_, Some(object), _) => Place::After(object.clone()),
                (_, _, true) => Place::First,
                _ => Place::Last,
            },
        },
    };
    edit(cli, change, Some(args.origin.clone()), &args.change)
}

pub(super) fn delete(cli: &Cli, args: &DeleteArgs) -> Result<(), ClientError> {
    let words = args.words.as_slice();
    let change = match (args.kind.as_deref(), &args.origin) {
        (None, Some(origin)) => Edit::DeleteOrigin {
            origin: origin.clone(),
        },
        (Some("set"), _) if words.len() > 1 => Edit::DeleteMembers {
            set: words[0].clone(),
            members: members_of(&words[1..])?,
        },
        (Some("address"), _) => match words {
            [interface, address] => Edit::DeleteAddress {
                interface: interface.clone(),
                address: address.clone(),
            },
            _ => return Err(usage("delete address", "write INTERFACE ADDRESS")),
        },
        (Some(kind), _) => match words {
            [object] => Edit::Delete {
                kind: kind.to_owned(),
                object: object.clone(),
            },
            _ => return Err(usage("delete", "one object at a time, by name or number")),
        },
        (None, None) => return Err(usage("delete", "write KIND NAME, or --origin NAME")),
    };
    edit(cli, change, None, &args.change)
}

pub(super) fn set(cli: &Cli, args: &SetArgs) -> Result<(), ClientError> {
    let change = Edit::Set {
        key: args.key.clone(),
        value: args.value.clone(),
    };
    edit(cli, change, None, &args.change)
}

pub(super) fn rollback(cli: &Cli, args: &RollbackArgs) -> Result<(), ClientError> {
    let request = RollbackRequest {
        generation: args.generation,
        terms: args.change.terms()?,
    };
    ask(
        cli,
        "rollback",
        &request,
        args.change.json,
        documents::reloaded,
    )
}

pub(super) fn confirm(cli: &Cli, json: bool) -> Result<(), ClientError> {
    ask(cli, "confirm", &(), json, |done: &Reloaded| {
        format!("generation {} stays in force\n", done.generation)
    })
}

pub(super) fn save(cli: &Cli, args: &SaveArgs) -> Result<(), ClientError> {
    let request = SaveRequest { force: args.force };
    ask(cli, "save", &request, args.json, |saved: &Saved| {
        documents::saved(saved)
    })
}

pub(super) fn diff(cli: &Cli, args: &DiffArgs) -> Result<(), ClientError> {
    let request = DiffRequest {
        file: args.file.as_deref().map(absolute).transpose()?,
        generation: args.generation,
    };
    ask(
        cli,
        "diff",
        &request,
        args.json,
        |difference: &Difference| documents::difference(difference),
    )
}

fn usage(what: &str, why: &str) -> ClientError {
    Failure::new(FailureKind::Usage, what, why).into()
}

/// `KEY=VALUE`.
fn pair(word: &str) -> Result<(String, String), Failure> {
    let pair = word.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| {
        Failure::new(
            FailureKind::Usage,
            word,
            "write KEY=VALUE, as in the configuration",
        )
    })?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Members as they are, or one or more a line of standard input, where `#` begins a comment.
fn members_of(words: &[String]) -> Result<Vec<String>, Failure> {
    let failed = |why: String| Failure::new(FailureKind::Usage, "members", why);
    if words == ["-"] {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|e| failed(format!("standard input: {e}")))?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        let words = lines.flat_map(|line| line.split([' ', '\t', ',']));
        let words = words.map(str::trim).filter(|word| !word.is_empty());
        return Ok(words.map(str::to_owned).collect());
    }
    if words.is_empty() {
        return Err(failed("name at least one".to_owned()));
    }
    let words = words.iter().flat_map(|word| word.split(','));
    Ok(words.map(str::to_owned).collect())
}
