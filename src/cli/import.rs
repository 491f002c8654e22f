//! `natgate import`.

use super::args::ImportArgs;
use crate::config::{self, DEFAULT_PATH, Validated};
use crate::control::api::{Failure, FailureKind};
use crate::control::runtime::refused;
use crate::import::{Format, Level, Options, import_files};
use std::io::Write;
use std::path::Path;

/// Imports files: the drop-in goes to standard output or a file, the report to standard error.
pub(super) fn import(args: &ImportArgs) -> Result<(), Failure> {
    let usage = |why: String| Failure::new(FailureKind::Usage, "import", why);
    let format = Format::from_name(&args.format)
        .ok_or_else(|| usage(format!("unknown format {}", args.format)))?;
    let options = Options {
        map: args.map.clone(),
        inside: args.inside.clone(),
        enable_ipv6: args.enable_ipv6,
        live: args.live,
        accept_masquerade_cidrs: args.accept_masquerade_cidrs,
        all_reserved: args.nomasq_all_reserved_ranges,
        keep_ports: !args.random_fully,
        to_ports: args.to_ports.clone(),
        expand_kube: args.expand_kube,
        target: args.target,
        base: base(args.base.as_deref())?,
    };
    let done = import_files(format, &args.files, &options)
        .map_err(|why| Failure::new(FailureKind::Failed, "import", why))?;
    let mut report = std::io::BufWriter::new(std::io::stderr().lock());
    for line in &done.report.lines {
        // A reader that went away does not change the result.
        let _ = writeln!(report, "{line}");
    }
    drop(report);
    if done.report.invalid {
        let failure = Failure::new(
            FailureKind::Failed,
            "import",
            "the input is invalid as a whole",
        );
        return Err(failure.hint("nothing was written; the lines above name every mistake"));
    }
    let rejected = done.report.count(Level::Reject);
    let doubtful = done.report.count(Level::Note) + done.report.count(Level::Warn);
    let refusal = match rejected {
        0 if args.strict && doubtful > 0 => Some(format!("{doubtful} notes and warnings")),
        0 => None,
        _ => Some(format!("{rejected} statements were rejected")),
    };
    if refusal.is_none() || args.best_effort {
        write(args.output.as_deref(), &done.toml)?;
    }
    match refusal {
        None => Ok(()),
        Some(why) if args.best_effort => {
            Err(usage(why).hint("the rest was written: see what it means without them"))
        }
        Some(why) => Err(usage(why).hint("nothing was written; --best-effort writes the rest")),
    }
}

fn write(output: Option<&Path>, text: &str) -> Result<(), Failure> {
    let place = output.map_or("standard output".to_owned(), |path| {
        path.display().to_string()
    });
    let written = match output {
        Some(path) => std::fs::write(path, text),
        None => std::io::stdout().lock().write_all(text.as_bytes()),
    };
    written.map_err(|e| Failure::new(FailureKind::Failed, place, e.to_string()))
}

/// The configuration the result is for: the one named, or the installed one if there is any.
fn base(named: Option<&Path>) -> Result<Option<Validated>, Failure> {
    let path = match named {
        Some(path) => path,
        None if Path::new(DEFAULT_PATH).exists() => Path::new(DEFAULT_PATH),
        None => return Ok(None),
    };
    let loaded = config::load(path, &config::environment())
        .map_err(|report| refused(FailureKind::Failed, path, &report))?;
    Ok(Some(loaded.validated))
}
