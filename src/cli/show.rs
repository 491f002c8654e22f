//! `natgate show`.

use super::args::ShowArgs;
use super::client::{Client, ClientError};
use super::output::Output;
use super::render::{Columns, documents, items};
use crate::control::api::{
    Config, Counters, Document, Drops, Failure, FailureKind, Filter, Item, ListEnd, Listing,
    Status, Timeouts,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// What is left of the words once `verbose` is taken out.
struct Request {
    filter: Filter,
    verbose: bool,
    json: bool,
    explain: bool,
}

/// Shows something, once or until interrupted.
pub async fn show(client: &Client, args: &ShowArgs) -> Result<(), ClientError> {
    let words: Vec<&String> = args
        .words
        .iter()
        .filter(|word| *word != "verbose")
        .collect();
    let request = Request {
        verbose: words.len() < args.words.len(),
        filter: Filter::from_words(&words)?,
        json: args.json,
        explain: args.explain,
    };
    loop {
        let mut out = Output::default();
        if args.watch.is_some() && !args.json {
            // Home, then clear: the picture changes in place.
            out.text("\x1b[H\x1b[2J")?;
        }
        once(client, &args.what, &request, &mut out).await?;
        out.flush()?;
        match args.watch {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.max(1))).await,
            None => return Ok(()),
        }
    }
}

async fn once(
    client: &Client,
    what: &str,
    request: &Request,
    out: &mut Output,
) -> Result<(), ClientError> {
    if let Some(listing) = Listing::from_name(what) {
        return list(client, listing, request, out).await;
    }
    match Document::from_name(what) {
        Some(Document::Status) => {
            document(client, what, request, out, |d: &Status| {
                documents::status(d)
            })
            .await
        }
        Some(Document::Drops) => {
            document(client, what, request, out, |d: &Drops| {
                documents::drops(d, request.explain)
            })
            .await
        }
        Some(Document::Counters) => {
            document(client, what, request, out, |d: &Counters| {
                documents::counters(d)
            })
            .await
        }
        Some(Document::Timeouts) => {
            document(client, what, request, out, |d: &Timeouts| {
                documents::timeouts(d)
            })
            .await
        }
        Some(Document::Config) => {
            document(client, what, request, out, |d: &Config| d.text.clone()).await
        }
        None => Err(Failure::new(
            FailureKind::Usage,
            "show",
            format!("there is nothing called `{what}`"),
        )
        .into()),
    }
}

async fn document<T: DeserializeOwned + Serialize>(
    client: &Client,
    what: &str,
    request: &Request,
    out: &mut Output,
    render: impl Fn(&T) -> String,
) -> Result<(), ClientError> {
    if !request.filter.is_unconditional() || request.filter.max.is_some() {
        let why = format!("`{what}` takes no filter");
        return Err(Failure::new(FailureKind::Usage, "filter", why).into());
    }
    let answer: T = client.get(what).await?;
    if request.json {
        out.json(&answer)
    } else {
        out.text(&render(&answer))
    }
}

async fn list(
    client: &Client,
    listing: Listing,
    request: &Request,
    out: &mut Output,
) -> Result<(), ClientError> {
    let end = if request.json {
        list_json(client, listing, request, out).await?
    } else {
        list_table(client, listing, request, out).await?
    };
    if end.shown < end.total && !request.json {
        out.text(&format!("only the first {} of {}\n", end.shown, end.total))?;
    }
    if !end.stalled_workers.is_empty() {
        out.flush()?;
        eprint!("{}", documents::stalled(&end.stalled_workers));
    }
    Ok(())
}

async fn list_table(
    client: &Client,
    listing: Listing,
    request: &Request,
    out: &mut Output,
) -> Result<ListEnd, ClientError> {
    let headings = items::headings(listing, request.verbose);
    let mut failed = Ok(());
    let mut columns = Columns::new(&headings, |line| {
        if failed.is_ok() {
            failed = out.text(line).and_then(|()| out.text("\n"));
        }
    });
    let end = client
        .list(listing, &request.filter, |item| {
            columns.row(items::cells(&item, request.verbose))
        })
        .await?;
    columns.flush();
    drop(columns);
    failed.map(|()| end)
}

/// One document, written as the objects arrive: `{"sessions": [ … ], "shown": 50, "total": 1000000}`.
async fn list_json(
    client: &Client,
    listing: Listing,
    request: &Request,
    out: &mut Output,
) -> Result<ListEnd, ClientError> {
    let mut failed = Ok(());
    let mut first = true;
    let key = listing.name().replace('-', "_");
    let mut write = |text: &str| {
        if failed.is_ok() {
            failed = out.text(text);
        }
    };
    let begin = format!("{{\n\"{key}\": [");
    let end = client
        .list(listing, &request.filter, |item: Item| {
            // Nothing is printed before the first object is there: an error leaves no half document behind.
            write(if first { &begin } else { "," });
            first = false;
            write("\n");
            write(&serde_json::to_string(&item).unwrap_or_default());
        })
        .await?;
    if first {
        write(&begin);
    }
    write("\n]");
    let tail = serde_json::to_value(&end).unwrap_or_default();
    for (key, value) in tail.as_object().into_iter().flatten() {
        write(&format!(",\n\"{key}\": {value}"));
    }
    write("\n}\n");
    failed.map(|()| end)
}
