//! Which responses are compressed, and what their heads say then.

use crate::exchange::{forget_digests, weaken};
use http::{HeaderMap, HeaderValue, header};
use pingora::{Result, http::ResponseHeader};
use portcullis_config::{Algorithm, Compress};

/// Whether a response would be compressed for a client that takes it.
pub(super) fn is_eligible(head: &ResponseHeader, compress: &Compress) -> bool {
    let headers = &head.headers;
    let has_body = !matches!(head.status.as_u16(), 100..=199 | 204 | 205 | 304);
    // A part of what is compressed is not what is compressed of a part.
    let is_part = head.status == 206 || headers.contains_key(header::CONTENT_RANGE);
    let is_coded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    has_body
        && !is_part
        && !is_coded
        && !must_not_change(headers)
        && !headers.contains_key(header::TRAILER)
        && is_large(headers, compress.min_size.bytes())
        && is_of(headers, &compress.types)
}

fn must_not_change(headers: &HeaderMap) -> bool {
    headers.get_all(header::CACHE_CONTROL).iter().any(|value| {
        let mut directives = value.as_bytes().split(|byte| *byte == b',');
        directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
    })
}

/// What does not say how large it is may be.
fn is_large(headers: &HeaderMap, least: u64) -> bool {
    length(headers).is_none_or(|length| length >= least.max(1))
}

/// How long the body is that follows, where that is said.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

fn is_of(headers: &HeaderMap, types: &[String]) -> bool {
    let Some(Ok(of)) = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str) else {
        return false;
    };
    let of = of.split(';').next().unwrap_or_default().trim();
    // Its messages are compressed one by one, by its own rules.
    let grpc = "application/grpc";
    let is_grpc = of
        .get(..grpc.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(grpc));
    !is_grpc && types.iter().any(|pattern| fits(pattern, of))
}

fn fits(pattern: &str, of: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else {
        return pattern.eq_ignore_ascii_case(of);
    };
    let (start, end, of) = (start.as_bytes(), end.as_bytes(), of.as_bytes());
    of.len() > start.len() + end.len()
        && of[..start.len()].eq_ignore_ascii_case(start)
        && of[of.len() - end.len()..].eq_ignore_ascii_case(end)
}

/// Caches are told that other clients get something else.
///
/// # Errors
/// The head has no room for more.
pub(super) fn vary(head: &mut ResponseHeader) -> Result<()> {
    let says = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',');
        names.any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding")
        })
    };
    if head.headers.get_all(header::VARY).iter().any(says) {
        return Ok(());
    }
    let name = HeaderValue::from_static("accept-encoding");
    head.append_header(header::VARY, name).map(|_| ())
}

/// Makes a 304 true for what its client may have. Whoever names a weak tag has something that was compressed; with the strong one of
/// the plain body in its place it would take parts of that for parts of what it has.
///
/// # Errors
/// The head has no room for more.
pub(super) fn confirm(head: &mut ResponseHeader, names_weakly: bool) -> Result<()> {
    if names_weakly {
        vary(head)?;
        weaken(head)?;
    }
    Ok(())
}

/// Makes the head true for the body that follows.
///
/// # Errors
/// The head has no room for more.
pub(super) fn describe(head: &mut ResponseHeader, algorithm: Algorithm) -> Result<()> {
    let coding = HeaderValue::from_static(algorithm.name());
    head.insert_header(header::CONTENT_ENCODING, coding)?;
    head.remove_header(&header::CONTENT_LENGTH);
    let chunked = HeaderValue::from_static("chunked");
    head.insert_header(header::TRANSFER_ENCODING, chunked)?;
    // There are ranges of the plain body only.
    head.remove_header(&header::ACCEPT_RANGES);
    forget_digests(head);
    weaken(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::{ByteSize, CompressLevels};

    fn compress(min_size: u64) -> Compress {
        Compress {
            min_size: ByteSize(min_size),
            algorithms: vec![Algorithm::Gzip],
            types: ["text/*", "application/json", "application/*+json"]
                .map(str::to_owned)
                .into(),
            levels: CompressLevels::default(),
        }
    }

    fn head(status: u16, lines: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in lines {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn what_may_be_compressed() {
        let html = ("content-type", "text/html; charset=utf-8");
        for (status, lines, eligible) in [
            (200, vec![html], true),
            (404, vec![html], true),
            (200, vec![html, ("content-length", "100")], true),
            (200, vec![html, ("content-length", "99")], false),
            (200, vec![("content-type", "TEXT/HTML")], true),
            (200, vec![("content-type", "text/event-stream")], true),
            (
                200,
                vec![("content-type", "application/problem+json")],
                true,
            ),
            (200, vec![("content-type", "application/+json")], false),
            (200, vec![("content-type", "application/jsonp")], false),
            (200, vec![("content-type", "image/png")], false),
            (200, vec![("content-type", "textual")], false),
            (200, vec![("content-type", "application/grpc+json")], false),
            (200, vec![], false),
            (200, vec![html, ("content-encoding", "gzip")], false),
            (200, vec![html, ("content-encoding", "identity")], true),
            (
                200,
                vec![html, ("cache-control", "private, No-Transform")],
                false,
            ),
            (200, vec![html, ("trailer", "x-checksum")], false),
            (200, vec![html, ("content-range", "bytes 0-9/100")], false),
            (206, vec![html], false),
            (204, vec![html], false),
            (304, vec![html], false),
            (101, vec![html], false),
        ] {
            let head = head(status, &lines);
            assert_eq!(
                is_eligible(&head, &compress(100)),
                eligible,
                "{status} {lines:?}"
            );
        }
        // Nothing does not become smaller.
        assert!(!is_eligible(
            &head(200, &[html, ("content-length", "0")]),
            &compress(0)
        ));
    }

    #[test]
    fn caches_are_told_once() {
        for (before, after) in [
            (vec![], vec!["accept-encoding"]),
            (vec!["cookie"], vec!["cookie", "accept-encoding"]),
            (
                vec!["cookie, Accept-Encoding"],
                vec!["cookie, Accept-Encoding"],
            ),
            (vec!["*"], vec!["*"]),
        ] {
            let lines: Vec<_> = before.iter().map(|value| ("vary", *value)).collect();
            let mut head = head(200, &lines);
            vary(&mut head).unwrap();
            let said: Vec<_> = head.headers.get_all("vary").iter().collect();
            assert_eq!(said, after, "{before:?}");
        }
    }

    #[test]
    fn the_head_says_what_the_body_is() {
        let mut head = head(
            200,
            &[
                ("content-length", "9000"),
                ("etag", "\"abc\""),
                ("accept-ranges", "bytes"),
                ("repr-digest", "sha-256=:AAAA:"),
            ],
        );
        describe(&mut head, Algorithm::Br).unwrap();
        let mut all: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        all.sort();
        assert_eq!(
            all,
            [
                "content-encoding: br",
                "etag: W/\"abc\"",
                "transfer-encoding: chunked"
            ]
        );
    }
}
