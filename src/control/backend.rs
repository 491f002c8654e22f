//! Everything an operator can ask of a running gateway, in plain data.
//!
//! The API server and the metrics speak to this trait alone, so both are tested without workers; the appliance
//! implements it over jobs that the workers run between batches. Methods block (at most some seconds, when a worker does not
//! answer) and are called on threads that may.

use super::api::{
    Cleared, Config, Counters, DiffRequest, Difference, Drops, EditRequest, ExemptFileState,
    Explanation, Failure, FailureKind, Filter, Item, LeaseView, ListEnd, Listing, LogSink, Pool,
    PoolPorts, Port, Question, Queue, ReloadRequest, Reloaded, RollbackRequest, SaveRequest, Saved,
    ServiceBackend, Status, Timeouts, Worker,
};
use std::sync::{Arc, OnceLock};

/// What a scrape of the metrics is made from, gathered at one time. Counters are those since start, whatever was cleared
/// for the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// Health.
    pub status: Status,
    /// Packets, sessions, mappings.
    pub counters: Counters,
    /// Devices.
    pub ports: Vec<Port>,
    /// Their queues.
    pub queues: Vec<Queue>,
    /// Sinks of the NAT log.
    pub log_sinks: Vec<LogSink>,
    /// Workers.
    pub workers: Vec<Worker>,
    /// Pools.
    pub pools: Vec<Pool>,
    /// Ports on addresses that are in no pool any more and only drain, by protocol.
    pub draining: Vec<PoolPorts>,
    /// Services by backend.
    pub services: Vec<ServiceBackend>,
    /// Files that exemptions follow.
    pub exempt_files: Vec<ExemptFileState>,
    /// DHCP clients.
    pub leases: Vec<LeaseView>,
    /// Reloads that took effect.
    pub reloads_applied: u64,
    /// Reloads that were refused.
    pub reloads_refused: u64,
    /// Version of DPDK; empty without.
    pub dpdk_version: String,
}

/// A running gateway as its operator sees it.
pub trait Backend: Send + Sync + 'static {
    /// Health on one screen.
    fn status(&self) -> Status;

    /// Drops by reason, since the counters were cleared.
    fn drops(&self) -> Drops;

    /// All counters; packets since they were cleared.
    fn counters(&self) -> Counters;

    /// Idle timeouts in force.
    fn timeouts(&self) -> Timeouts;

    /// The running configuration.
    fn config(&self) -> Config;

    /// Passes the objects of a listing that match to `emit`, until it returns false, and says how many there are.
    ///
    /// # Errors
    /// When the filter names what does not exist.
    fn list(
        &self,
        listing: Listing,
        filter: &Filter,
        emit: &mut dyn FnMut(Item) -> bool,
    ) -> Result<ListEnd, Failure>;

    /// Ends the sessions that match.
    ///
    /// # Errors
    /// When the filter names what does not exist.
    fn clear_sessions(&self, filter: &Filter) -> Result<Cleared, Failure>;

    /// Lets packet and rule counters start from 0 for the command line; metrics go on.
    fn clear_counters(&self) -> Cleared;

    /// Loads, validates and publishes a configuration and waits until every worker runs it.
    ///
    /// # Errors
    /// [`FailureKind::Refused`] with every finding; nothing has changed then.
    fn reload(&self, request: &ReloadRequest) -> Result<Reloaded, Failure>;

    /// Changes the running configuration object by object: like a reload of the edited text.
    ///
    /// # Errors
    /// As [`Backend::reload`], and when an edit names what does not exist.
    fn edit(&self, request: &EditRequest) -> Result<Reloaded, Failure>;

    /// Puts an earlier configuration into force.
    ///
    /// # Errors
    /// As [`Backend::reload`], and when there is no such configuration any more.
    fn rollback(&self, request: &RollbackRequest) -> Result<Reloaded, Failure>;

    /// Keeps the configuration that would be taken back.
    ///
    /// # Errors
    /// When none waits for it.
    fn confirm(&self) -> Result<Reloaded, Failure>;

    /// Writes the running configuration to the files natgate starts from.
    ///
    /// # Errors
    /// When somebody else changed them meanwhile, or they cannot be written.
    fn save(&self, request: &SaveRequest) -> Result<Saved, Failure>;

    /// Compares another configuration with the running one.
    ///
    /// # Errors
    /// When the other one is not valid, or not known any more.
    fn diff(&self, request: &DiffRequest) -> Result<Difference, Failure>;

    /// What would happen to a packet.
    ///
    /// # Errors
    /// When the question names what does not exist.
    fn explain(&self, question: &Question) -> Result<Explanation, Failure>;

    /// Everything the metrics need.
    fn scrape(&self) -> Scrape;
}

/// The place where the backend appears once the gateway is up: the management thread starts before the devices do.
#[derive(Clone, Default)]
pub struct Slot(Arc<OnceLock<Arc<dyn Backend>>>);

impl Slot {
    /// A slot that is filled already.
    pub fn filled(backend: Arc<dyn Backend>) -> Slot {
        let slot = Slot::default();
        slot.fill(backend);
        slot
    }

    /// Makes the backend known. Only the first one counts.
    pub fn fill(&self, backend: Arc<dyn Backend>) {
        let _ = self.0.set(backend);
    }

    /// The backend.
    ///
    /// # Errors
    /// While the gateway is still starting.
    pub fn get(&self) -> Result<Arc<dyn Backend>, Failure> {
        self.0.get().cloned().ok_or_else(|| {
            Failure::new(FailureKind::Stalled, "natgate", "still starting")
                .hint("ask again when the devices are up; the log shows how far it is")
        })
    }
}
