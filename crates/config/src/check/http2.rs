//! What is said of HTTP/2.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::Parsed,
};

/// Settings of a protocol that the listener does not speak.
pub(super) fn useless_settings(parsed: &Parsed, report: &Report) {
    for listener in &parsed.listeners {
        let without_tls = listener.h2c.as_ref().is_some_and(|h2c| h2c.value);
        let with_tls = listener.tls.as_ref().is_some_and(|tls| tls.http2);
        if let (Some(http2), false) = (&listener.http2, without_tls || with_tls) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    http2.span,
                    format!("the listener `{}` does not speak HTTP/2", listener.id.value),
                )
                .label("has no effect")
                .help("remove `http2`, or add `h2c`, or offer \"h2\" in `alpn` of `tls`"),
            );
        }
    }
}
