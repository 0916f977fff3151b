//! The proxy: everything between a configuration and the network. The binary is [`cli::main`]; docs/ARCHITECTURE.md is the
//! map.

mod accept_encoding;
mod access;
mod admin;
mod agents;
mod begin;
pub mod cli;
mod client;
mod discovery;
mod error_page;
mod exchange;
mod files;
mod filter;
mod hop;
mod mirror;
mod phases;
mod quality;
mod recording;
mod reply;
mod request;
mod rewrite;
mod router;
mod server;
mod snapshot;
mod split;
mod strict;
mod telemetry;
mod template;
mod trace;
mod upstream;
mod watch;
mod websocket;
