//! Texts with request variables, filled in per request.

use crate::{
    request::{Begun, Request},
    snapshot::Action,
};
use chrono::{DateTime, SecondsFormat, Utc};
use http::{HeaderMap, HeaderValue};
use portcullis_config::{TemplatePart, Variable};
use std::{io::Write, time::SystemTime};

/// A text, constant if it has no variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Template {
    Constant(HeaderValue),
    Parts(Vec<TemplatePart>),
}

impl Template {
    pub(crate) fn new(template: &portcullis_config::Template) -> Self {
        let mut text = String::new();
        for part in &template.parts {
            match part {
                TemplatePart::Literal(literal) => text.push_str(literal),
                TemplatePart::Variable(_) | TemplatePart::RequestHeader(_) => {
                    return Self::Parts(template.parts.clone());
                }
            }
        }
        match HeaderValue::from_bytes(text.as_bytes()) {
            Ok(value) => Self::Constant(value),
            Err(_) => Self::Parts(template.parts.clone()),
        }
    }

    /// Whether the text is the same for all requests.
    pub(crate) const fn is_constant(&self) -> bool {
        matches!(self, Self::Constant(_))
    }

    /// Whether it has headers of the request in it.
    pub(crate) fn reads_headers(&self) -> bool {
        let is_header = |part: &TemplatePart| matches!(part, TemplatePart::RequestHeader(_));
        matches!(self, Self::Parts(parts) if parts.iter().any(is_header))
    }

    /// The text for this request; `None` when the result is no header value, which only a host of strange bytes can cause.
    pub(crate) fn fill(&self, request: &Request) -> Option<HeaderValue> {
        self.fill_with(request, None)
    }

    /// The same with the headers of the request.
    pub(crate) fn fill_with(
        &self,
        request: &Request,
        headers: Option<&HeaderMap>,
    ) -> Option<HeaderValue> {
        let parts = match self {
            Self::Constant(value) => return Some(value.clone()),
            Self::Parts(parts) => parts,
        };
        let begun = request.begun.as_ref()?;
        let mut text = Vec::new();
        for part in parts {
            match part {
                TemplatePart::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
                TemplatePart::Variable(variable) => push(&mut text, *variable, begun, request),
                TemplatePart::RequestHeader(name) => {
                    let values = headers.map(|headers| headers.get_all(name).iter());
                    push_all(&mut text, values.into_iter().flatten());
                }
            }
        }
        // What is empty at an end must not leave a space there.
        HeaderValue::from_bytes(text.trim_ascii()).ok()
    }
}

fn push_all<'a>(text: &mut Vec<u8>, values: impl Iterator<Item = &'a HeaderValue>) {
    for (number, value) in values.enumerate() {
        if number > 0 {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(value.as_bytes());
    }
}

fn push(text: &mut Vec<u8>, variable: Variable, begun: &Begun, request: &Request) {
    let identity = &begun.identity;
    let route = request.route.as_deref();
    let tls = begun.connection.tls.as_ref();
    let certificate = tls.and_then(|tls| tls.client.as_ref());
    let said = match variable {
        // A Vec takes everything.
        Variable::ClientIp => return drop(write!(text, "{}", identity.ip)),
        Variable::ClientPort => return drop(write!(text, "{}", identity.port)),
        Variable::TimeUnix => {
            let since = begun.started_at.duration_since(SystemTime::UNIX_EPOCH);
            return drop(write!(text, "{}", since.unwrap_or_default().as_secs()));
        }
        Variable::TimeRfc3339 => {
            let at = DateTime::<Utc>::from(begun.started_at);
            let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
            return text.extend_from_slice(at.as_bytes());
        }
        Variable::ClientCertificateSubject => {
            certificate.map_or("", |certificate| &certificate.subject)
        }
        Variable::ClientCertificateSans => certificate.map_or("", |certificate| &certificate.sans),
        Variable::ClientCertificateFingerprint => {
            certificate.map_or("", |certificate| &certificate.fingerprint)
        }
        Variable::TlsVersion => tls.map_or("", |tls| tls.version),
        Variable::TlsCipher => tls.map_or("", |tls| &tls.cipher),
        Variable::TlsServerName => {
            let name = tls.and_then(|tls| tls.server_name.as_deref());
            name.unwrap_or_default()
        }
        Variable::RequestId => identity.request_id(),
        Variable::RequestMethod => begun.method.as_str(),
        Variable::RequestPath => begun.path(),
        Variable::RequestQuery => begun.target.split_once('?').map_or("", |(_, query)| query),
        Variable::RequestUri => &begun.target,
        Variable::RequestHost => &identity.host,
        Variable::RequestScheme => identity.scheme,
        Variable::RouteId => route.map_or("", |route| &route.id),
        Variable::UpstreamId => match route.map(|route| &route.action) {
            Some(Action::Upstream(upstream)) => &upstream.id,
            _ => "",
        },
        Variable::ListenerId => &begun.connection.listener.id,
    };
    text.extend_from_slice(said.as_bytes());
}
