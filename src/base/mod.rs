//! The vocabulary every layer shares: identifiers, time, drop reasons, randomness.

pub mod drops;
pub mod id;
pub mod random;
pub mod time;

pub use drops::DropReason;
pub use id::{Generation, InterfaceId, PoolId, PortId, RealmId, RuleId, Stamp, VlanId, WorkerId};
pub use random::Random;
pub use time::Tick;
