//! End-to-end tests: the real binary, real agents, real sockets. One module per feature.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report; what stands outside of #[test] functions serves only them"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod abuse;
mod agent_reports;
mod agents;
mod ambiguous;
mod balance;
mod bodies;
mod client_address;
mod connect;
mod curl;
mod defects;
mod drain;
mod ext_authz;
mod ext_proc;
mod faults;
mod filters;
mod forward_auth;
mod grpc;
mod guardrail;
mod half_close;
mod health;
mod healthcheck;
mod http;
mod http2;
mod kit;
mod limits;
mod mirror;
mod observability;
mod paths;
mod policy;
mod proxy_protocol;
mod quickstart;
mod refusals;
mod reload;
mod replicas;
mod retries;
mod reverse;
mod reverse_tls;
mod rewrite;
mod routing;
mod sdk_python;
mod settings;
mod shadow;
mod shutdown;
mod split;
mod static_files;
mod tls;
mod total;
mod trace;
mod unix_socket;
mod upstreams;
mod v1;
mod verdict_cache;
mod websocket;
