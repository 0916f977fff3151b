//! Dialects: the ways in which a proxy talks to agents, one module each.

pub(crate) mod authz;
pub(crate) mod channel;
pub(crate) mod envoy;
pub(crate) mod exchanges;
pub(crate) mod ext_proc;
pub(crate) mod http_client;
pub(crate) mod v1;
pub(crate) mod v2;
