//! What one client is told from another by: `"client-ip"`, `"cookie:NAME"`, `"header:NAME"`.

use super::{header, value::Value};
use crate::{diagnostic::code, model::ClientKey};

/// How to write one.
pub(super) const SUCH_AS: &str = "\"client-ip\", \"cookie:NAME\" or \"header:NAME\"";

pub(super) fn client_key(value: Value<'_>) -> Option<ClientKey> {
    let text = value.text()?;
    if text == "client-ip" {
        return Some(ClientKey::ClientIp);
    }
    match text.split_once(':') {
        // Both are tokens (RFC 9110 section 5.1, RFC 6265 section 4.1.1); names of cookies are case-sensitive.
        Some(("cookie", name)) if header::is_token(name) => {
            Some(ClientKey::Cookie(name.to_owned()))
        }
        Some(("header", name)) if header::is_token(name) => {
            Some(ClientKey::Header(name.to_ascii_lowercase()))
        }
        _ => {
            value.report(
                value
                    .error(
                        code::INVALID_VALUE,
                        format!("`{text}` does not tell clients apart"),
                    )
                    .help(format!("write {SUCH_AS}")),
            );
            None
        }
    }
}
