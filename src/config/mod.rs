//! Configuration: raw, validated, compiled to a policy; every error in one report.

pub mod matching;
pub mod validated;
