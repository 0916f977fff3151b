//! Texts with request variables, filled in per request.

use crate::request::{Begun, Request};
use http::HeaderValue;
use portcullis_config::{TemplatePart, Variable};
use std::fmt::Write;

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
                TemplatePart::Variable(_) => return Self::Parts(template.parts.clone()),
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

    /// The text for this request; `None` when the result is no header value, which only a host of strange bytes can cause.
    pub(crate) fn fill(&self, request: &Request) -> Option<HeaderValue> {
        let parts = match self {
            Self::Constant(value) => return Some(value.clone()),
            Self::Parts(parts) => parts,
        };
        let begun = request.begun.as_ref()?;
        let mut text = String::new();
        for part in parts {
            match part {
                TemplatePart::Literal(literal) => text.push_str(literal),
                TemplatePart::Variable(variable) => push(&mut text, *variable, begun, request),
            }
        }
        HeaderValue::from_bytes(text.as_bytes()).ok()
    }
}

fn push(text: &mut String, variable: Variable, begun: &Begun, request: &Request) {
    let identity = &begun.identity;
    let tls = begun.connection.tls.as_ref();
    let certificate = tls.and_then(|tls| tls.client.as_ref());
    // A String takes everything.
    let _ = match variable {
        Variable::ClientIp => write!(text, "{}", identity.ip),
        Variable::ClientPort => write!(text, "{}", identity.port),
        Variable::ClientCertificateSubject => {
            text.write_str(certificate.map_or("", |certificate| &certificate.subject))
        }
        Variable::ClientCertificateSans => {
            text.write_str(certificate.map_or("", |certificate| &certificate.sans))
        }
        Variable::ClientCertificateFingerprint => {
            text.write_str(certificate.map_or("", |certificate| &certificate.fingerprint))
        }
        Variable::RequestId => text.write_str(identity.request_id()),
        Variable::RequestMethod => text.write_str(begun.method.as_str()),
        Variable::RequestPath => text.write_str(begun.path()),
        Variable::RequestHost => text.write_str(&identity.host),
        Variable::RequestScheme => text.write_str(identity.scheme),
        Variable::RouteId => text.write_str(request.route.as_ref().map_or("", |route| &route.id)),
        Variable::TlsVersion => text.write_str(tls.map_or("", |tls| tls.version)),
        Variable::TlsCipher => text.write_str(tls.map_or("", |tls| &tls.cipher)),
        Variable::TlsServerName => text.write_str(
            tls.and_then(|tls| tls.server_name.as_deref())
                .unwrap_or_default(),
        ),
    };
}
