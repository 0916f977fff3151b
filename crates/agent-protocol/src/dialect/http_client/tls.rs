//! TLS to an agent that is called over HTTP.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;

use super::HttpEndpoint;
use crate::tls::client_config;

/// The configuration for connections to an endpoint. Reads files, apart from
/// the runtime's thread.
///
/// # Errors
/// Names the file.
pub(super) async fn config(endpoint: &HttpEndpoint) -> io::Result<Arc<ClientConfig>> {
    if endpoint.url.scheme_str() != Some("https") {
        return client_config(None);
    }
    let tls = endpoint.tls.clone();
    // It does not panic, and nobody aborts it.
    tokio::task::spawn_blocking(move || client_config(Some(&tls))).await?
}
