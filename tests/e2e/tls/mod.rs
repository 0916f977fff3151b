//! TLS with clients.

mod bytes;
mod certificates;
mod clients;
mod handshake;
mod requests;
mod resumption;
mod rotation;
