//! What an agent may do to a message. One bad operation makes the whole answer invalid, so that half of an answer is never
//! applied.

use portcullis_agent_protocol::{Decision, HeaderOp, Verdict};

/// Headers that frame a message, route it or say where it came from. Nobody may set or remove them: a change would make
/// the proxy, the upstream and other agents disagree on what the message is (RFC 9110 section 7.6.1, RFC 9112 section 6).
pub(crate) const NEVER_SETTABLE: [&str; 14] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "te",
    "trailer",
    "via",
    "forwarded",
    "x-request-id",
    "traceparent",
    "http2-settings",
];

/// Checks everything in a decision that could break a message.
///
/// # Errors
/// What is wrong, for the log.
pub(crate) fn validate(decision: &Decision) -> Result<(), String> {
    for operation in decision
        .request_headers
        .iter()
        .chain(&decision.response_headers)
    {
        validate_operation(operation)?;
    }
    match &decision.verdict {
        Verdict::Allow => Ok(()),
        Verdict::Block {
            status, headers, ..
        } => {
            if !(200..=599).contains(status) {
                return Err(format!(
                    "block with status {status}, which is not in 200-599"
                ));
            }
            headers
                .iter()
                .try_for_each(|(name, value)| validate_header(name, value))
        }
        Verdict::Redirect { url, status } => validate_redirect(url, *status),
        Verdict::Challenge { params, .. } => params
            .iter()
            .filter(|(name, _)| name == "www-authenticate" || name == "content-type")
            .try_for_each(|(name, value)| validate_header(name, value)),
    }
}

fn validate_operation(operation: &HeaderOp) -> Result<(), String> {
    match operation {
        HeaderOp::Set { name, value } | HeaderOp::Add { name, value } => {
            validate_header(name, value)
        }
        HeaderOp::Remove { name } => validate_name(name),
    }
}

fn validate_header(name: &str, value: &str) -> Result<(), String> {
    validate_name(name)?;
    if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
        || http::HeaderValue::from_str(value).is_err()
            && http::HeaderValue::from_bytes(value.as_bytes()).is_err()
    {
        return Err(format!(
            "header '{name}' with a forbidden byte in its value"
        ));
    }
    Ok(())
}

fn validate_name(name: &str) -> Result<(), String> {
    let Ok(parsed) = http::HeaderName::from_bytes(name.as_bytes()) else {
        return Err(format!("'{}' is not a header name", name.escape_debug()));
    };
    let lower = parsed.as_str();
    if NEVER_SETTABLE.contains(&lower) || lower.starts_with("x-forwarded-") {
        return Err(format!("header '{lower}' may not be changed by an agent"));
    }
    Ok(())
}

fn validate_redirect(url: &str, status: u16) -> Result<(), String> {
    if !(300..=399).contains(&status) || status == 304 {
        return Err(format!(
            "redirect with status {status}, which is not a redirection"
        ));
    }
    if url.is_empty() || url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err("redirect to an empty URL or one with white space or control bytes".into());
    }
    // A scheme is what stands before the first ':' when no '/', '?' or '#' comes earlier (RFC 3986 section 4.2).
    let scheme = url
        .find([':', '/', '?', '#'])
        .filter(|&at| url.as_bytes()[at] == b':')
        .map(|at| &url[..at]);
    match scheme {
        None => Ok(()),
        Some(scheme)
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            Ok(())
        }
        Some(scheme) => Err(format!(
            "redirect to scheme '{}', which is neither http nor https",
            scheme.escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_headers_are_refused_in_every_spelling() {
        for name in NEVER_SETTABLE.iter().copied().chain([
            "x-forwarded-for",
            "X-Forwarded-Anything",
            "HOST",
            ":path",
            "",
            "a b",
            "x\n",
        ]) {
            for operation in [
                HeaderOp::Set {
                    name: name.into(),
                    value: "v".into(),
                },
                HeaderOp::Add {
                    name: name.into(),
                    value: "v".into(),
                },
                HeaderOp::Remove { name: name.into() },
            ] {
                let mut decision = Decision::allow();
                decision.request_headers.push(operation.clone());
                assert!(validate(&decision).is_err(), "{operation:?}");
            }
        }
    }

    #[test]
    fn values_with_line_ends_are_refused() {
        for value in ["a\r\nx: y", "a\n", "\0", "a\rb"] {
            let mut decision = Decision::allow();
            decision.response_headers.push(HeaderOp::Set {
                name: "x".into(),
                value: value.into(),
            });
            assert!(validate(&decision).is_err(), "{value:?}");
        }
    }

    #[test]
    fn status_and_url_are_checked() {
        for (url, status, good) in [
            ("https://example.com/", 302, true),
            ("http://example.com", 307, true),
            ("/relative?a=b:c", 303, true),
            ("relative", 301, true),
            ("//host/path", 302, true),
            ("javascript:alert(1)", 302, false),
            ("data:text/html,x", 302, false),
            ("https://example.com/\r\nx: y", 302, false),
            ("", 302, false),
            ("https://example.com/", 200, false),
            ("https://example.com/", 304, false),
        ] {
            let decision = Decision {
                verdict: Verdict::Redirect {
                    url: url.into(),
                    status,
                },
                ..Decision::allow()
            };
            assert_eq!(validate(&decision).is_ok(), good, "{url} {status}");
        }
        for (status, good) in [
            (99, false),
            (101, false),
            (199, false),
            (200, true),
            (403, true),
            (599, true),
            (600, false),
        ] {
            let decision = Decision {
                verdict: Verdict::Block {
                    status,
                    body: None,
                    headers: Vec::new(),
                },
                ..Decision::allow()
            };
            assert_eq!(validate(&decision).is_ok(), good, "{status}");
        }
    }
}
