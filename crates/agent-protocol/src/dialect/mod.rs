//! Dialects: the ways in which a proxy talks to agents, one module each.

pub(crate) mod exchanges;
pub(crate) mod v2_uds;
