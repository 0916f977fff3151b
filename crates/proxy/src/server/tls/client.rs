//! The certificate that a client has shown, as it is told to agents, logs and upstreams.

use super::certificate::{alternative_names, time};
use ring::digest;
use std::{fmt::Write, time::SystemTime};
use x509_parser::{
    extensions::GeneralName,
    x509::{AttributeTypeAndValue, X509Name},
};

/// See the module. All texts are visible ASCII and spaces, so that they can be values of headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// As in `CN=app,O=Example` (RFC 4514: the last part of the name first).
    pub(crate) subject: String,
    /// Its other names, as in `DNS:app.example.com,URI:spiffe://example.com/app`.
    pub(crate) sans: String,
    /// Who it is in the words of Envoy: the first URI, else the first DNS name, else the subject.
    pub(crate) principal: String,
    /// SHA-256 of the whole certificate, in hexadecimal digits.
    pub(crate) fingerprint: String,
    pub(crate) expires: SystemTime,
}

impl ClientCertificate {
    /// What agents are told of it.
    pub(crate) fn told(&self) -> portcullis_agent_protocol::ClientCertificate<'_> {
        portcullis_agent_protocol::ClientCertificate {
            principal: &self.principal,
            fingerprint: &self.fingerprint,
        }
    }

    /// `None`: it cannot be read.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = distinguished_name(certificate.subject());
        let (mut first_uri, mut first_dns) = (None, None);
        let mut sans = String::new();
        for name in alternative_names(&certificate) {
            let (kind, text, first) = match name {
                GeneralName::DNSName(name) => ("DNS:", list_item(name), &mut first_dns),
                GeneralName::URI(uri) => ("URI:", list_item(uri), &mut first_uri),
                _ => continue,
            };
            if !sans.is_empty() {
                sans.push(',');
            }
            sans.push_str(kind);
            sans.push_str(&text);
            first.get_or_insert(text);
        }
        Some(Self {
            principal: first_uri.or(first_dns).unwrap_or_else(|| subject.clone()),
            subject,
            sans,
            fingerprint: fingerprint(der),
            expires: time(certificate.validity().not_after),
        })
    }
}

/// SHA-256 in hexadecimal digits.
fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    let mut text = String::with_capacity(64);
    for byte in digest.as_ref() {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A name within a list with commas: what could end it, or a header, is percent-encoded.
fn list_item(name: &str) -> String {
    const ENCODED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
        .add(b' ')
        .add(b',')
        .add(b'"')
        .add(b'\\');
    percent_encoding::utf8_percent_encode(name, ENCODED).to_string()
}

/// RFC 4514, with every byte that is not visible ASCII or a space in hexadecimal digits.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter().collect();
    for (position, part) in parts.iter().rev().enumerate() {
        if position > 0 {
            text.push(',');
        }
        for (position, attribute) in part.iter().enumerate() {
            if position > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == oid);
    match (known, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => {
            text.push_str(name);
            text.push('=');
            push_value(text, value);
        }
        (known, _) => {
            text.push_str(known.map_or(oid.as_str(), |(_, name)| name));
            text.push_str("=#");
            for byte in attribute.attr_value().data {
                let _ = write!(text, "{byte:02x}");
            }
        }
    }
}

/// RFC 4514 section 3, and `emailAddress`, which everybody knows.
const ATTRIBUTES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn push_value(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (position, byte) in value.bytes().enumerate() {
        let at_end = position == 0 || position == last;
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if position == 0 => text.push_str("\\#"),
            b' ' if at_end => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_pose_as_other_parts() {
        for (value, written) in [
            ("app", "app"),
            ("a b", "a b"),
            ("x,CN=admin", "x\\,CN\\=admin"),
            (" a ", "\\ a\\ "),
            ("#1", "\\#1"),
            ("1#", "1#"),
            ("a+b;c", "a\\+b\\;c"),
            ("\"\\", "\\\"\\\\"),
            ("a\r\nb", "a\\0D\\0Ab"),
            ("\u{e9}", "\\C3\\A9"),
            ("", ""),
        ] {
            let mut text = String::new();
            push_value(&mut text, value);
            assert_eq!(text, written, "{value:?}");
        }
    }

    #[test]
    fn names_in_a_list_stay_one_item() {
        assert_eq!(list_item("a.example"), "a.example");
        assert_eq!(list_item("spiffe://a/b,DNS:c"), "spiffe://a/b%2CDNS:c");
        assert_eq!(list_item("a\r\nb \u{e9}"), "a%0D%0Ab%20%C3%A9");
    }
}
