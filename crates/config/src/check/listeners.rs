//! What a listener says, beside its address.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedCertificate},
};

/// What means nothing with TLS, or without it.
pub(super) fn useless_settings(parsed: &Parsed, report: &Report) {
    for listener in &parsed.listeners {
        let h2c = listener.h2c.as_ref().filter(|h2c| h2c.value);
        if let (Some(tls), Some(h2c)) = (&listener.tls, h2c) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    h2c.span,
                    "`h2c` is HTTP/2 without TLS, and this listener speaks TLS",
                )
                .also(tls.span, "here")
                .help("remove `h2c`: with TLS, HTTP/2 is offered to every client"),
            );
        }
        if let (None, Some(span)) = (&listener.tls, listener.tls_handshake) {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    span,
                    "this listener has no TLS, so there is no handshake",
                )
                .help("remove `tls-handshake`, or add `tls`"),
            );
        }
    }
}

/// A certificate file twice, and a name that is given to two of them by hand: the second would never be shown.
pub(super) fn certificates(parsed: &Parsed, report: &Report) {
    let all = parsed.listeners.iter().filter_map(|it| it.tls.as_ref());
    for tls in all {
        let mut seen: Vec<&ParsedCertificate> = Vec::new();
        for certificate in &tls.certificates {
            let name = certificate.server_name.as_ref().map(|name| &name.value);
            let same = seen.iter().find(|before| {
                before.certificate == certificate.certificate
                    && before.server_name.as_ref().map(|name| &name.value) == name
            });
            if let Some(first) = same {
                report.add(
                    Diagnostic::error(
                        code::REPEATED,
                        certificate.span,
                        "this certificate is written twice",
                    )
                    .label("the second time")
                    .also(first.span, "the first time")
                    .help("remove one of the two"),
                );
            }
            seen.push(certificate);
        }
    }
}

/// A header that nobody may send.
pub(super) fn proxies(parsed: &Parsed, report: &Report) {
    let system = parsed.system.as_ref().map(|system| &system.value);
    let of_all = system.map_or(&[][..], |system| &system.trusted_proxies);
    for listener in &parsed.listeners {
        let Some(wanted) = &listener.proxy_protocol else {
            continue;
        };
        let trusted = listener.trusted_proxies.as_deref().unwrap_or(of_all);
        if trusted.is_empty() {
            report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    wanted.span,
                    "there are no trusted proxies, so nobody could connect here",
                )
                .help(
                    "say who is in front of this listener, such as `trusted-proxies \"10.0.0.0/8\"`, here or in `system`",
                ),
            );
        }
    }
}
