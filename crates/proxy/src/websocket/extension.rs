//! What the two sides may agree on beside the protocol: `Sec-WebSocket-Extensions` (RFC 6455 section 9.1). An extension can
//! change what frames are, so nothing passes that is not understood here, which is permessage-deflate (RFC 7692) alone.

use http::{HeaderMap, HeaderName, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};
use pingora::http::RequestHeader;
use portcullis_config::Deflate;

const DEFLATE: &str = "permessage-deflate";
const NAME: HeaderName = SEC_WEBSOCKET_EXTENSIONS;

/// An offer of permessage-deflate, or the answer to it, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Element<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<&'a str>)>,
}

/// An extension was agreed on that was not offered, or that nobody here understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotOffered;

/// Takes out of a request what must not reach the upstream, and returns what is left.
pub(crate) fn offer(head: &mut RequestHeader, deflate: Deflate) -> HeaderMap {
    let mut left = HeaderMap::new();
    let Some(written) = joined(&head.headers) else {
        return left;
    };
    head.remove_header(&NAME);
    let Some(kept) = kept(&written, deflate) else {
        return left;
    };
    if head.insert_header(NAME, kept.clone()).is_ok() {
        left.insert(NAME, kept);
    }
    left
}

/// Of what is offered, what the upstream may take.
fn kept(written: &str, deflate: Deflate) -> Option<HeaderValue> {
    if deflate == Deflate::Refuse {
        return None;
    }
    let offers = elements(written)?;
    let offers: Vec<String> = offers
        .iter()
        .filter(|offer| offer.is_offer())
        .map(Element::written)
        .collect();
    if offers.is_empty() {
        return None;
    }
    HeaderValue::from_str(&offers.join(", ")).ok()
}

/// Whether messages may be compressed, by what the upstream says to these offers.
///
/// # Errors
/// It says what it must not.
pub(crate) fn agreed(offered: &HeaderMap, answer: &HeaderMap) -> Result<bool, NotOffered> {
    let Some(answer) = joined(answer) else {
        return Ok(false);
    };
    let answered = elements(&answer).ok_or(NotOffered)?;
    let offered = joined(offered).unwrap_or_default();
    let offers = elements(&offered).unwrap_or_default();
    match answered.as_slice() {
        [] => Ok(false),
        [one] if offers.iter().any(|offer| one.answers(offer)) => Ok(true),
        _ => Err(NotOffered),
    }
}

/// All lines as one (RFC 6455 section 9.1 allows to spread them). `None` without any.
fn joined(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(NAME).iter().peekable();
    lines.peek()?;
    // What is no text is no extension either, and then the whole is refused.
    let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap_or("\0")).collect();
    Some(lines.join(","))
}

/// `None`: it does not follow the grammar.
fn elements(text: &str) -> Option<Vec<Element<'_>>> {
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(element).collect()
}

fn element(text: &str) -> Option<Element<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| is_token(name))?;
    let parameters = parts.map(|part| match part.split_once('=') {
        None => is_token(part).then_some((part, None)),
        Some((name, value)) => {
            let (name, value) = (name.trim(), value.trim());
            // What is quoted has to be a token all the same.
            let value = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'))
                .unwrap_or(value);
            (is_token(name) && is_token(value)).then_some((name, Some(value)))
        }
    });
    Some(Element {
        name,
        parameters: parameters.collect::<Option<_>>()?,
    })
}

fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// The parameters of permessage-deflate.
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";
const NO_TAKEOVER: [&str; 2] = ["server_no_context_takeover", "client_no_context_takeover"];

impl Element<'_> {
    /// Whether it is a valid offer of compression.
    fn is_offer(&self) -> bool {
        // How large its window may be, a client may leave to the server.
        self.is_deflate(|name, value| name == CLIENT_BITS && value.is_none())
    }

    /// Whether it is a valid answer to this offer. What a client has to be able to do, it has to have said.
    fn answers(&self, offer: &Self) -> bool {
        let has = |element: &Self, wanted: &str| {
            element.parameters.iter().any(|(name, _)| *name == wanted)
        };
        self.is_deflate(|_, _| false) && (!has(self, CLIENT_BITS) || has(offer, CLIENT_BITS))
    }

    fn is_deflate(&self, also: impl Fn(&str, Option<&str>) -> bool) -> bool {
        let known = |(name, value): &(&str, Option<&str>)| {
            let has_bits = value.is_some_and(is_bits);
            NO_TAKEOVER.contains(name) && value.is_none()
                || [SERVER_BITS, CLIENT_BITS].contains(name) && has_bits
                || also(name, *value)
        };
        let once = |(position, (name, _)): (usize, &(&str, Option<&str>))| {
            !self.parameters[..position]
                .iter()
                .any(|(earlier, _)| earlier == name)
        };
        self.name == DEFLATE
            && self.parameters.iter().all(known)
            && self.parameters.iter().enumerate().all(once)
    }

    fn written(&self) -> String {
        let mut text = self.name.to_owned();
        for (name, value) in &self.parameters {
            text.push_str("; ");
            text.push_str(name);
            if let Some(value) = value {
                text.push('=');
                text.push_str(value);
            }
        }
        text
    }
}

/// A window of 256 bytes to 32 KiB, without leading zeros.
fn is_bits(value: &str) -> bool {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(NAME, line.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_compression_is_offered_on_and_only_where_it_is_inflated() {
        let inflate = Deflate::Inflate { max_ratio: 100 };
        for (lines, kept) in [
            (&["permessage-deflate"][..], Some("permessage-deflate")),
            (
                &["permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"],
                Some("permessage-deflate; client_max_window_bits"),
            ),
            (
                &[
                    "foo; bar",
                    "permessage-deflate;server_max_window_bits=\"10\" , permessage-deflate",
                ],
                Some("permessage-deflate; server_max_window_bits=10, permessage-deflate"),
            ),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; server_max_window_bits=16"], None),
            (&["permessage-deflate; server_max_window_bits=08"], None),
            (&["permessage-deflate; other"], None),
            (&["permessage-deflate; client_no_context_takeover=1"], None),
            (
                &["permessage-deflate; client_no_context_takeover; client_no_context_takeover"],
                None,
            ),
            (&["permessage-deflate;;"], None),
            (&["permessage-deflate; a b"], None),
            (&["mux"], None),
            (&[""], None),
        ] {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            for line in lines {
                head.append_header(NAME, *line).unwrap();
            }
            let mut refused = head.clone();
            let left = offer(&mut head, inflate);
            let line = head.headers.get(NAME).map(|line| line.to_str().unwrap());
            assert_eq!(line, kept, "{lines:?}");
            assert_eq!(left.get(NAME), head.headers.get(NAME));
            assert!(offer(&mut refused, Deflate::Refuse).is_empty());
            assert!(!refused.headers.contains_key(NAME), "{lines:?}");
        }
    }

    #[test]
    fn an_answer_is_one_of_the_offers() {
        for (offered, answer, agreed_on) in [
            ("permessage-deflate", "permessage-deflate", Ok(true)),
            (
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; client_max_window_bits=9; server_no_context_takeover",
                Ok(true),
            ),
            (
                "permessage-deflate",
                "permessage-deflate; client_max_window_bits=9",
                Err(NotOffered),
            ),
            (
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; client_max_window_bits",
                Err(NotOffered),
            ),
            (
                "permessage-deflate",
                "permessage-deflate, permessage-deflate",
                Err(NotOffered),
            ),
            ("permessage-deflate", "foo", Err(NotOffered)),
            (
                "permessage-deflate",
                "permessage-deflate; foo",
                Err(NotOffered),
            ),
            ("permessage-deflate", "\"", Err(NotOffered)),
            ("permessage-deflate", "", Ok(false)),
        ] {
            let found = agreed(&headers(&[offered]), &headers(&[answer]));
            assert_eq!(found, agreed_on, "{offered} / {answer}");
        }
        assert_eq!(
            agreed(&headers(&[]), &headers(&["permessage-deflate"])),
            Err(NotOffered)
        );
        assert_eq!(
            agreed(&headers(&["permessage-deflate"]), &headers(&[])),
            Ok(false)
        );
    }
}
