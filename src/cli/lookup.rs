//! `natgate lookup`: both functions of a deterministic mapping, from the configuration alone (RFC 7422 section 2).

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::args::LookupArgs;
use super::client::ClientError;
use super::output::Output;
use crate::config::deterministic;
use crate::control::api::{Failure, FailureKind};
use crate::control::runtime::{load, refused};

/// Prints who has an outside endpoint, or which outside ports a subscriber has.
pub fn lookup(args: &LookupArgs) -> Result<(), ClientError> {
    let (address, port) = endpoint(&args.endpoint)?;
    let loaded =
        load(&args.config).map_err(|report| refused(FailureKind::Failed, &args.config, &report))?;
    let answers = deterministic::lookup(&loaded.validated, address, port);
    let mut out = Output::default();
    if args.json {
        out.json(&answers)?;
    } else {
        for answer in &answers {
            out.text(&format!("{answer}\n"))?;
        }
    }
    if answers.is_empty() {
        out.flush()?;
        let why = match port {
            None => "no deterministic pool has this subscriber",
            Some(_) => "no deterministic pool gives this port to anybody",
        };
        let failure = Failure::new(FailureKind::NotFound, &args.endpoint, why)
            .hint("for other pools ask the running gateway: natgate show blocks, show mappings");
        return Err(failure.into());
    }
    Ok(())
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), Failure> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok((address.into(), None));
    }
    match text.parse::<SocketAddrV4>() {
        Ok(endpoint) => Ok(((*endpoint.ip()).into(), Some(endpoint.port()))),
        Err(_) => Err(Failure::new(
            FailureKind::Usage,
            text,
            "neither an IPv4 address nor ADDRESS:PORT",
        )
        .hint(
            "100.64.0.9 asks for a subscriber's ports, 203.0.113.1:2001 for a port's subscriber",
        )),
    }
}
