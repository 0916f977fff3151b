//! What is counted of connections of clients, and of what listeners show them.

use crate::{server::limits::Rejection, telemetry::Refused};
use portcullis_config::ListenerId;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::{path::Path, time::SystemTime};

/// The metrics of connections.
#[derive(Default)]
pub(crate) struct ConnectionMetrics {
    refused: Family<Reasons, Counter>,
    rejected: Family<Reasons, Counter>,
    handshake_failures: Family<Reasons, Counter>,
    certificates: Family<CertificateLabels, Gauge>,
    open: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reasons {
    listener: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    listener: String,
    file: String,
}

impl Reasons {
    fn new(listener: &ListenerId, reason: &'static str) -> Self {
        let listener = listener.to_string();
        Self { listener, reason }
    }
}

impl ConnectionMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_refused",
            "Connections that ended with something that is not an acceptable request head, by listener and reason",
            self.refused.clone(),
        );
        registry.register(
            "connections_rejected",
            "Connections that were closed at once because a limit was reached, by listener and limit",
            self.rejected.clone(),
        );
        registry.register(
            "tls_handshake_failures",
            "Connections of clients that did not get as far as TLS, by listener and reason",
            self.handshake_failures.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "When a certificate that a listener shows ends, since 1970, by listener and file",
            Unit::Seconds,
            self.certificates.clone(),
        );
        registry.register(
            "connections_open",
            "Connections of clients that are open",
            self.open.clone(),
        );
    }

    /// So many are open now.
    pub(crate) fn show_open(&self, open: usize) {
        self.open.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub(crate) fn refused(&self, listener: &ListenerId, why: Refused) {
        let reasons = Reasons::new(listener, why.name());
        self.refused.get_or_create(&reasons).inc();
    }

    pub(crate) fn rejected(&self, listener: &ListenerId, why: Rejection) {
        let reasons = Reasons::new(listener, why.name());
        self.rejected.get_or_create(&reasons).inc();
    }

    pub(crate) fn handshake_failed(&self, listener: &ListenerId, reason: &'static str) {
        let reasons = Reasons::new(listener, reason);
        self.handshake_failures.get_or_create(&reasons).inc();
    }

    /// A certificate is in use.
    pub(crate) fn certificate(&self, listener: &ListenerId, file: &Path, expires: SystemTime) {
        let labels = CertificateLabels {
            listener: listener.to_string(),
            file: file.display().to_string(),
        };
        let since = expires.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.certificates.get_or_create(&labels).set(seconds);
    }

    /// No certificate is in use any more.
    pub(crate) fn forget_certificates(&self) {
        self.certificates.clear();
    }
}
