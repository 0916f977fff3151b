//! What a verdict is kept under: everything that tells one request from another as far as the specification goes.
//!
//! A key is one text of bytes in which every value has its length in front, so that two different requests cannot have the
//! same one by chance or by design. It begins with the parts that are left out of it. What an agent sees beyond the key,
//! such as `user-agent` or the address of the client, is its own business: it gives a time to live to those verdicts alone
//! that do not depend on it.

use crate::headers::HeaderNames;
use http::{HeaderMap, HeaderName, header};
use portcullis_agent_protocol::RequestHeaders;
use portcullis_config::KeyPart;

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What the key of a verdict has beside what is in the event about the head of the request.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    /// The listener that the request came to.
    pub listener: &'a str,
    /// `http` or `https`, as the listener is spoken to.
    pub scheme: &'a str,
    /// The host that the request was routed by.
    pub host: &'a str,
    /// What tells the client's certificate from others; `None` when it has shown none.
    pub client_certificate: Option<&'a [u8]>,
    /// Headers that earlier filters have set, added or removed. A name may be there twice.
    pub changed: &'a [HeaderName],
}

/// A request as far as the keys of verdicts about it go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) context: &'a KeyContext<'a>,
    /// As the agents of the step see it.
    pub(crate) head: &'a RequestHeaders<'a>,
    /// What any agent owns.
    pub(crate) owned: &'a HeaderNames,
}

/// A set of parts of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Parts(u8);

impl Parts {
    pub(crate) const NONE: Self = Self(0);
    /// How many sets there are.
    pub(crate) const SETS: u32 = 1 << KeyPart::ALL.len();

    pub(crate) fn of(parts: impl IntoIterator<Item = KeyPart>) -> Self {
        let bits = parts.into_iter().map(|part| 1 << part as u8);
        Self(bits.fold(0, |all, bit| all | bit))
    }

    /// The parts of these names. A name that is none leaves nothing out.
    pub(crate) fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let known = |name| KeyPart::ALL.into_iter().find(|part| part.name() == name);
        Self::of(names.into_iter().filter_map(known))
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn contains(self, part: KeyPart) -> bool {
        self.0 & (1 << part as u8) != 0
    }

    /// From 0 to below [`SETS`](Self::SETS).
    pub(crate) const fn number(self) -> u32 {
        self.0 as u32
    }

    /// The set of this number.
    pub(crate) const fn numbered(number: u32) -> Self {
        Self((number % Self::SETS) as u8)
    }
}

impl Subject<'_> {
    /// The key without the parts that are ignored.
    pub(crate) fn key(&self, ignored: Parts) -> Vec<u8> {
        let mut key = Vec::with_capacity(512);
        let Self {
            context,
            head,
            owned,
        } = *self;
        key.push(ignored.0);
        field(&mut key, context.listener.as_bytes());
        optional(&mut key, head.metadata.route_id.map(str::as_bytes));
        field(&mut key, context.scheme.as_bytes());
        // What a trusted proxy in front of us says of the scheme.
        values(&mut key, head.headers, &X_FORWARDED_PROTO);
        field(&mut key, context.host.as_bytes());
        values(&mut key, head.headers, &header::HOST);
        field(&mut key, head.method.as_bytes());
        let (path, query) = match head.uri.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (head.uri, None),
        };
        field(&mut key, path.as_bytes());
        if !ignored.contains(KeyPart::Query) {
            optional(&mut key, query.map(str::as_bytes));
        }
        if !ignored.contains(KeyPart::ClientCertificate) {
            optional(&mut key, context.client_certificate);
        }
        if !ignored.contains(KeyPart::Authorization) {
            values(&mut key, head.headers, &header::AUTHORIZATION);
        }
        if !ignored.contains(KeyPart::Cookie) {
            values(&mut key, head.headers, &header::COOKIE);
        }
        // No client can send what somebody owns, so whatever is there of it was changed by an earlier filter.
        let is_owned = |name: &&HeaderName| owned.contains(name.as_str());
        if !ignored.contains(KeyPart::OwnedHeaders) {
            fields(
                &mut key,
                head.headers,
                context.changed.iter().filter(is_owned),
            );
        }
        if !ignored.contains(KeyPart::EarlierChanges) {
            let others = context.changed.iter().filter(|name| !is_owned(name));
            fields(&mut key, head.headers, others);
        }
        key
    }
}

fn number(key: &mut Vec<u8>, number: usize) {
    // Nothing in a head is longer than the buffer that it was read into.
    key.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn field(key: &mut Vec<u8>, bytes: &[u8]) {
    number(key, bytes.len());
    key.extend_from_slice(bytes);
}

fn optional(key: &mut Vec<u8>, bytes: Option<&[u8]>) {
    key.push(bytes.is_some().into());
    if let Some(bytes) = bytes {
        field(key, bytes);
    }
}

/// All values of a name, in their order.
fn values(key: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) {
    let all = headers.get_all(name);
    number(key, all.iter().count());
    for value in all {
        field(key, value.as_bytes());
    }
}

/// Names with their values; one that was removed is there with none.
fn fields<'a>(key: &mut Vec<u8>, headers: &HeaderMap, names: impl Iterator<Item = &'a HeaderName>) {
    for name in names {
        key.push(1);
        field(key, name.as_str().as_bytes());
        values(key, headers, name);
    }
    key.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use portcullis_agent_protocol::RequestMetadata;
    use std::{collections::HashSet, net::Ipv4Addr, time::UNIX_EPOCH};

    /// A request whose every member can be another.
    #[derive(Clone)]
    struct Case {
        listener: &'static str,
        route: Option<&'static str>,
        scheme: &'static str,
        host: &'static str,
        method: &'static str,
        uri: &'static str,
        certificate: Option<&'static [u8]>,
        headers: Vec<(&'static str, &'static str)>,
        changed: Vec<&'static str>,
        user_port: u16,
    }

    fn usual() -> Case {
        Case {
            listener: "http",
            route: Some("all"),
            scheme: "http",
            host: "a",
            method: "GET",
            uri: "/p?q",
            certificate: None,
            headers: vec![("host", "a"), ("x-user", "u"), ("x-set", "s")],
            changed: vec!["x-user", "x-set"],
            user_port: 1,
        }
    }

    fn key(case: &Case, ignored: Parts) -> Vec<u8> {
        let mut headers = HeaderMap::new();
        for (name, value) in &case.headers {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let head = RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: "c",
                request_id: "r",
                client_ip: Ipv4Addr::LOCALHOST.into(),
                client_port: case.user_port,
                server_name: None,
                protocol: "HTTP/1.1",
                tls_version: None,
                tls_cipher: None,
                client_certificate: None,
                route_id: case.route,
                upstream_id: None,
                timestamp: UNIX_EPOCH,
                traceparent: None,
            },
            method: case.method,
            uri: case.uri,
            headers: &headers,
            budget_left: None,
        };
        let names: Vec<HeaderName> = case
            .changed
            .iter()
            .map(|name| HeaderName::from_static(name))
            .collect();
        let subject = Subject {
            context: &KeyContext {
                listener: case.listener,
                scheme: case.scheme,
                host: case.host,
                client_certificate: case.certificate,
                changed: &names,
            },
            head: &head,
            owned: &HeaderNames::new(["x-user"]),
        };
        subject.key(ignored)
    }

    type Change = fn(&mut Case);

    fn with(change: impl FnOnce(&mut Case)) -> Case {
        let mut case = usual();
        change(&mut case);
        case
    }

    #[test]
    fn whatever_differs_is_another_key() {
        let header = |name, value| with(|case| case.headers.push((name, value)));
        let cases = [
            usual(),
            with(|case| case.listener = "https"),
            with(|case| case.route = None),
            with(|case| case.route = Some("")),
            with(|case| case.scheme = "https"),
            with(|case| case.host = "b"),
            with(|case| case.headers[0].1 = "b"),
            with(|case| case.method = "HEAD"),
            with(|case| case.uri = "/P?q"),
            with(|case| case.uri = "/p"),
            with(|case| case.uri = "/p?"),
            with(|case| case.uri = "/p?q2"),
            with(|case| case.certificate = Some(b"")),
            with(|case| case.certificate = Some(b"c")),
            header("x-forwarded-proto", "https"),
            header("authorization", "Basic a"),
            header("authorization", "Basic b"),
            header("cookie", "a=1"),
            header("cookie", "a=2"),
            with(|case| {
                case.headers.push(("cookie", "a=1"));
                case.headers.push(("cookie", "b=1"));
            }),
            header("cookie", "a=1; b=1"),
            header("x-user", "second"),
            with(|case| case.headers[1].1 = "other"),
            with(|case| {
                case.headers.remove(1);
            }),
            with(|case| case.headers[2].1 = "other"),
            with(|case| {
                case.headers.remove(2);
            }),
            with(|case| case.changed.push("x-absent")),
        ];
        let keys: HashSet<Vec<u8>> = cases.iter().map(|case| key(case, Parts::NONE)).collect();
        assert_eq!(keys.len(), cases.len());
    }

    #[test]
    fn what_is_not_in_the_key_makes_no_difference() {
        let seen = with(|case| case.headers.push(("user-agent", "curl")));
        let port = with(|case| case.user_port = 2);
        for other in [seen, port] {
            assert_eq!(key(&usual(), Parts::NONE), key(&other, Parts::NONE));
        }
    }

    #[test]
    fn a_part_that_is_ignored_makes_no_difference_and_others_do() {
        let changes: [(KeyPart, Change); 6] = [
            (KeyPart::Authorization, |case| {
                case.headers.push(("authorization", "x"));
            }),
            (KeyPart::Cookie, |case| case.headers.push(("cookie", "x"))),
            (KeyPart::Query, |case| case.uri = "/p?other"),
            (KeyPart::ClientCertificate, |case| {
                case.certificate = Some(b"c");
            }),
            (KeyPart::OwnedHeaders, |case| case.headers[1].1 = "other"),
            (KeyPart::EarlierChanges, |case| case.headers[2].1 = "other"),
        ];
        for (changed, change) in changes {
            for ignored in KeyPart::ALL {
                let parts = Parts::of([ignored]);
                let same = key(&usual(), parts) == key(&with(change), parts);
                assert_eq!(same, ignored == changed, "{changed:?} {ignored:?}");
            }
        }
        assert_ne!(
            key(&usual(), Parts::NONE)[1..],
            key(&usual(), Parts::of([KeyPart::Query]))[1..]
        );
    }

    #[test]
    fn sets_have_names_and_numbers() {
        let some = Parts::named(["cookie", "no-such-part", "query"]);
        assert_eq!(some, Parts::of([KeyPart::Query, KeyPart::Cookie]));
        assert!(some.contains(KeyPart::Query) && !some.contains(KeyPart::Authorization));
        assert_eq!(
            some.and(Parts::of([KeyPart::Query])),
            Parts::named(["query"])
        );
        for number in 0..Parts::SETS {
            assert_eq!(Parts::numbered(number).number(), number);
        }
        assert_eq!(Parts::of(KeyPart::ALL).number(), Parts::SETS - 1);
    }
}
