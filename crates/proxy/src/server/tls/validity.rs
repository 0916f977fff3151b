//! Certificates that a client will not believe, or not for long: for log, check and metrics.

use super::{Certificate, ListenerTls, TlsOfListeners};
use crate::telemetry::metrics::ConnectionMetrics;
use chrono::{DateTime, SecondsFormat, Utc};
use portcullis_config::{ListenerId, Place};
use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A certificate that ends earlier than this is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What is odd about a certificate that can be used.
#[derive(Debug)]
pub(crate) struct Warning {
    place: Place,
    listener: ListenerId,
    file: PathBuf,
    what: String,
}

/// As in `conf.kdl:3:9: listener "https": certs/a.pem: expired on 2026-01-01T00:00:00Z`.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, listener, file) = (&self.place, &self.listener, self.file.display());
        write!(f, "{place}: listener \"{listener}\": {file}: {}", self.what)
    }
}

/// Everything that is odd, in the order of the listeners.
pub(crate) fn warnings(tls: &TlsOfListeners, now: SystemTime) -> Vec<Warning> {
    let mut listeners: Vec<_> = tls.iter().collect();
    listeners.sort_by_key(|(id, _)| *id);
    let mut warnings = Vec::new();
    for (listener, tls) in listeners {
        let certificates = &tls.certificates.all;
        for (position, certificate) in certificates.iter().enumerate() {
            let what = [
                over(certificate, now),
                never_shown(certificate, &certificates[..position]),
            ];
            warnings.extend(what.into_iter().flatten().map(|what| Warning {
                place: certificate.place.clone(),
                listener: listener.clone(),
                file: certificate.file.clone(),
                what,
            }));
        }
    }
    warnings
}

fn over(certificate: &Certificate, now: SystemTime) -> Option<String> {
    let (begins, expires) = (certificate.begins, certificate.expires);
    if expires <= now {
        Some(format!("expired on {}", written(expires)))
    } else if begins > now {
        Some(format!("is valid only from {}", written(begins)))
    } else if expires <= now + SOON {
        Some(format!("expires on {}", written(expires)))
    } else {
        None
    }
}

/// A name that one before it has, with a key of the same kind, so that it is the other that is shown.
fn never_shown(certificate: &Certificate, before: &[Arc<Certificate>]) -> Option<String> {
    let kind = certificate.key.key.algorithm();
    let same_kind = || {
        before
            .iter()
            .filter(|other| other.key.key.algorithm() == kind)
    };
    certificate.names.iter().find_map(|name| {
        let first = same_kind().find(|other| other.names.iter().any(|it| it == name))?;
        let first = first.file.display();
        Some(format!("is never shown for {name}, which {first} is for"))
    })
}

fn written(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Says which certificates are in use now that were not `before`, and what is odd about them, and counts the days.
pub(crate) fn announce(
    now_used: &TlsOfListeners,
    before: &TlsOfListeners,
    metrics: &ConnectionMetrics,
) {
    metrics.forget_certificates();
    for (listener, tls) in now_used {
        let known = before.get(listener);
        for certificate in &tls.certificates.all {
            metrics.certificate(listener, &certificate.file, certificate.expires);
            if !known.is_some_and(|known| has(known, certificate)) {
                let (file, expires) = (certificate.file.display(), written(certificate.expires));
                tracing::info!(%listener, %file, expires, "certificate in use");
            }
        }
    }
    for warning in warnings(now_used, SystemTime::now()) {
        tracing::warn!("{warning}");
    }
}

fn has(tls: &ListenerTls, certificate: &Certificate) -> bool {
    let mut all = tls.certificates.all.iter();
    all.any(|known| known.file == certificate.file && known.key.cert == certificate.key.cert)
}
