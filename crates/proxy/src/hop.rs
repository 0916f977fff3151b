//! What the two sides say to us alone: the fields that a Connection header names, and Connection itself (RFC 9110 section
//! 7.6.1).
//!
//! Those of a request are taken out before anybody else sees it, and with them the names. Pingora takes them out as well, but
//! only on the way to the upstream: by then a name would also take away what the proxy or an agent has put there. Those of a
//! response it leaves in.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use pingora::{
    Error,
    ErrorType::InvalidHTTPHeader,
    Result,
    http::{RequestHeader, ResponseHeader},
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether the Connection header of a request names only fields that a client may keep from the upstream: not those that
/// frame or route the request, nor those that say where it comes from.
pub(crate) fn is_acceptable(head: &RequestHeader) -> bool {
    options(&head.headers).all(|option| match HeaderName::from_bytes(option) {
        Ok(name) => {
            let name = name.as_str();
            !name.starts_with("x-forwarded-")
                && !matches!(
                    name,
                    "host"
                        | "content-length"
                        | "transfer-encoding"
                        | "forwarded"
                        | "via"
                        | "x-real-ip"
                        | "x-request-id"
                )
        }
        Err(_) => false,
    })
}

/// Whether the Connection header of a request names this field.
pub(crate) fn names(head: &RequestHeader, name: &HeaderName) -> bool {
    options(&head.headers).any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Takes out of a request the fields that the Connection header names, and the names. What is left of it is the wish to
/// upgrade.
pub(crate) fn remove_nominated(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let nominated = nominated(headers);
    let upgrades = nominated.contains(&header::UPGRADE);
    for name in nominated.iter().filter(|name| **name != header::UPGRADE) {
        headers.remove(name);
    }
    if upgrades {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(header::CONNECTION);
    }
}

/// Takes out of a request all that is for the next hop alone, credentials included (RFC 9110 sections 7.6.1 and 11.7). On the way
/// to the upstream Pingora does so; on any other way nobody does.
pub(crate) fn clean_request(head: &mut RequestHeader) {
    for name in nominated(&head.headers) {
        head.remove_header(&name);
    }
    for name in [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HTTP2_SETTINGS,
    ] {
        head.remove_header(&name);
    }
}

/// Takes out of a response what the upstream says about its connection with us. A response to an upgrade keeps it: it is
/// what the client waits for.
pub(crate) fn clean_response(head: &mut ResponseHeader) {
    if head.status == 101 {
        return;
    }
    if head.headers.contains_key(header::CONNECTION) {
        for name in nominated(&head.headers) {
            // How long the body is stays known, whatever the upstream says about it.
            if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
                head.remove_header(&name);
            }
        }
        head.remove_header(&header::CONNECTION);
    }
    head.remove_header(&KEEP_ALIVE);
    head.remove_header(&PROXY_CONNECTION);
}

/// Counts a head that an upstream sends ahead of its response. There is no end to how many it may send, and each is passed on.
///
/// # Errors
/// They are too many.
pub(crate) fn count_ahead(count: &mut u32) -> Result<()> {
    const MOST: u32 = 100;
    *count += 1;
    if *count > MOST {
        let why = "too much that is sent ahead of a response";
        return Err(Error::explain(InvalidHTTPHeader, why).into_up());
    }
    Ok(())
}

/// The body of a response has to be framed in one way that the client's side knows: Pingora looks for chunks wherever they are
/// named last, and passes on what is in them as if it were not coded (RFC 9112 sections 6.1 and 6.3).
///
/// # Errors
/// It is not.
pub(crate) fn check_coding(head: &ResponseHeader) -> Result<()> {
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    let is_known = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    let is_counted = head.headers.contains_key(header::CONTENT_LENGTH);
    if !is_known || is_counted || head.version == Version::HTTP_10 {
        let why = "a response whose end could be read in two ways";
        return Err(Error::explain(InvalidHTTPHeader, why).into_up());
    }
    Ok(())
}

/// The fields that all Connection headers name together.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    options(headers)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect()
}

/// The options of all Connection headers.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in lines {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn some_fields_are_not_for_the_client_to_take_out() {
        for (value, acceptable) in [
            ("close", true),
            ("keep-alive, x-own", true),
            ("upgrade", true),
            ("te, http2-settings", true),
            ("", true),
            (", ,", true),
            ("close, Host", false),
            ("content-length", false),
            ("X-Forwarded-For", false),
            ("x-forwarded-anything", false),
            ("x-real-ip", false),
            ("close,x-request-id", false),
            ("\"x-own\"", false),
            (":path", false),
            ("a b", false),
        ] {
            let head = head(&[("connection", value)]);
            assert_eq!(is_acceptable(&head), acceptable, "{value}");
        }
    }

    #[test]
    fn named_fields_go_and_so_do_the_names() {
        let head = head(&[
            ("connection", "close, X-Own"),
            ("connection", "x-other, Upgrade"),
            ("upgrade", "websocket"),
            ("x-own", "1"),
            ("x-own", "2"),
            ("x-other", "3"),
            ("x-kept", "4"),
        ]);
        let mut headers = head.headers.clone();
        remove_nominated(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "upgrade", "x-kept"]);
        assert_eq!(headers[header::CONNECTION], "upgrade");
    }

    #[test]
    fn an_upstream_speaks_of_its_connection_to_us_alone() {
        let response = |status, connection: &str| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in [
                ("connection", connection),
                ("keep-alive", "timeout=5"),
                ("upgrade", "websocket"),
                ("x-own", "1"),
                ("content-length", "2"),
            ] {
                head.append_header(name, value).unwrap();
            }
            clean_response(&mut head);
            let mut left: Vec<_> = head.headers.keys().map(HeaderName::to_string).collect();
            left.sort_unstable();
            left.join(" ")
        };
        assert_eq!(response(200, "close"), "content-length upgrade x-own");
        assert_eq!(response(200, "x-own, Upgrade"), "content-length");
        assert_eq!(
            response(200, "content-length"),
            "content-length upgrade x-own"
        );
        assert_eq!(
            response(101, "upgrade"),
            "connection content-length keep-alive upgrade x-own"
        );
    }
}
