//! The command line: arguments, the API client, tables.
//!
//! Every command ends with an exit code a script can act on: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 the daemon is
//! not reachable, 5 refused by the running daemon. Errors are one sentence on stderr:
//! `natgate: what failed: why (what to do)`.

pub mod args;
pub mod bench;
pub mod change;
pub mod client;
mod import;
mod lookup;
mod output;
pub mod render;
mod show;

use crate::control::api::{Cleared, Explanation, Failure, FailureKind, Filter, Question};
use args::{CheckArgs, ClearCommand, Cli, Command, ExplainArgs, RunArgs};
use clap::{CommandFactory, Parser};
use client::{Client, ClientError};
use output::Output;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit code when nobody answers on the socket.
const UNREACHABLE: u8 = 4;

/// Runs the command line of this process and returns its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let (text, code) = describe(&cli, problem);
            eprintln!("natgate: {text}");
            ExitCode::from(code)
        }
    }
}

/// Carries out one command.
fn dispatch(cli: &Cli) -> Result<(), ClientError> {
    match &cli.command {
        Command::Run(args) => Ok(run(args)?),
        Command::Check(args) => Ok(check(args)?),
        Command::Reload(args) => change::reload(cli, args),
        Command::Add(args) => change::add(cli, args),
        Command::Delete(args) => change::delete(cli, args),
        Command::Set(args) => change::set(cli, args),
        Command::Rollback(args) => change::rollback(cli, args),
        Command::Confirm { json } => change::confirm(cli, *json),
        Command::Save(args) => change::save(cli, args),
        Command::Diff(args) => change::diff(cli, args),
        Command::Show(args) => block_on(show::show(&Client::new(cli.socket()), args)),
        Command::Explain(args) => explain(cli, args),
        Command::Clear(command) => block_on(clear(cli, command)),
        Command::Import(args) => Ok(import::import(args)?),
        Command::Lookup(args) => lookup::lookup(args),
        Command::Bench(args) => Ok(bench::bench(args)?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "natgate", &mut script);
            Output::default().bytes(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .map_err(|e| Failure::new(FailureKind::Failed, "manual page", e.to_string()))?;
            Output::default().bytes(&page)
        }
    }
}

/// The sentence and the exit code of a problem.
fn describe(cli: &Cli, problem: ClientError) -> (String, u8) {
    match problem {
        ClientError::Failed(failure) => (failure.to_string(), failure.kind.exit_code()),
        ClientError::Unreachable(why) => {
            let socket = cli.socket();
            let hint = "is the daemon running, and may you use its socket? `systemctl status natgate`, or name it with --socket";
            (
                format!("socket {}: {why} ({hint})", socket.display()),
                UNREACHABLE,
            )
        }
        ClientError::Garbled(why) => (
            format!("answer: {why} (use the natgate binary the daemon was started from)"),
            1,
        ),
    }
}

/// `natgate run`.
fn run(args: &RunArgs) -> Result<(), Failure> {
    crate::telemetry::logging::start();
    // What is read later, to compare or to save, has the name of what is read now.
    crate::control::runtime::run(&absolute(&args.config)?)
}

/// `natgate check`.
fn check(args: &CheckArgs) -> Result<(), Failure> {
    let checked = crate::control::runtime::check(&args.file)?;
    for warning in &checked.warnings {
        eprintln!("{warning}");
    }
    print!("{}", checked.summary);
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| {
        Failure::new(
            FailureKind::Usage,
            format!("file {}", path.display()),
            e.to_string(),
        )
    })
}

/// `natgate explain`.
fn explain(cli: &Cli, args: &ExplainArgs) -> Result<(), ClientError> {
    let question = Question::from_words(&args.words)?;
    let answer = |explanation: Explanation| {
        let mut out = Output::default();
        if args.json {
            out.json(&explanation)
        } else {
            out.text(&render::documents::explanation(&explanation))
        }
    };
    if let Some(file) = &args.config {
        return answer(crate::control::explain::under_file(file, &question)?);
    }
    let request = serde_json::to_string(&question)
        .map_err(|e| Failure::new(FailureKind::Usage, "explain", e.to_string()))?;
    block_on(async {
        let client = Client::new(cli.socket());
        answer(client.post("explain", request).await?)
    })
}

/// `natgate clear`.
async fn clear(cli: &Cli, command: &ClearCommand) -> Result<(), ClientError> {
    let client = Client::new(cli.socket());
    let (done, what, json): (Cleared, _, _) = match command {
        ClearCommand::Sessions { words, json } => {
            let path = format!("clear/sessions?{}", Filter::from_words(words)?.to_query());
            (client.post(&path, String::new()).await?, "sessions", json)
        }
        ClearCommand::Counters { json } => (
            client.post("clear/counters", String::new()).await?,
            "counters",
            json,
        ),
    };
    let mut out = Output::default();
    if *json {
        out.json(&done)
    } else {
        out.text(&render::documents::cleared(&done, what))
    }
}

/// Runs a conversation with the daemon on this thread.
fn block_on(work: impl Future<Output = Result<(), ClientError>>) -> Result<(), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(FailureKind::Failed, "runtime", e.to_string()))?;
    runtime.block_on(work)
}
