//! Says in the log which subscribers come to one of their limits, and which have left it behind: once each.

use super::Live;
use super::ask::ask_all;
use super::tables::{inside_address, realm_name};
use crate::dataplane::worker::JobContext;
use crate::nat::at_limit::LimitEdge;

/// Edges fetched from a worker at a time.
const BATCH: usize = 64;

impl Live {
    /// Fetches what workers have to tell; the housekeeping calls it every few seconds.
    pub fn tell_limits(&self) {
        // Allocated here, filled there.
        let (answers, _) = ask_all(&self.workers, || {
            let mut edges: Vec<LimitEdge> = Vec::with_capacity(BATCH);
            move |context: &mut JobContext<'_>| {
                context.nat.at_limit.fetch(&mut edges);
                context.nat_v6.at_limit.fetch(&mut edges);
                std::mem::take(&mut edges)
            }
        });
        let policy = self.published.load();
        let edges: Vec<_> = answers.into_iter().flat_map(|(_, edges)| edges).collect();
        self.log_limits(&edges);
        for edge in edges {
            let (subscriber, realm) = (
                inside_address(edge.address),
                realm_name(&policy, edge.realm),
            );
            let (limit, refused) = (edge.reason.name(), edge.refused);
            if edge.begins {
                tracing::warn!(%subscriber, realm, limit, "subscriber is at its limit");
            } else {
                tracing::info!(%subscriber, realm, limit, refused, "subscriber is no longer at its limit");
            }
        }
    }
}
