//! TLS with clients.

mod certificates;
mod clients;
mod handshake;
mod requests;
mod resumption;
mod rotation;
