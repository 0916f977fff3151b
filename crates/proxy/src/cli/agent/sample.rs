//! The request that an agent is asked about by the commands of the kit, as events.

use super::header;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, header as names};
use portcullis_agent_protocol::{
    BodyChunk, Event, EventKind, FrameOpcode, RequestComplete, RequestHeaders, RequestMetadata,
    ResponseHeaders, WebSocketFrame,
};
use std::{net::IpAddr, time::Duration, time::SystemTime};

/// What stands in bodies and frames, over and over.
const TEXT: &str = "the quick brown fox jumps over the lazy dog. ";

/// What the request is like.
#[derive(Debug, Clone, Args)]
pub(super) struct SampleArgs {
    /// The method of the request that the agent is asked about; default GET, and POST where it has a body
    #[arg(long)]
    method: Option<String>,
    /// Its path and query
    #[arg(long, default_value = "/")]
    path: String,
    /// A header of it, as a credential that the agent wants; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A request, one of several that differ by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    method: String,
    uri: String,
    headers: HeaderMap,
    response: HeaderMap,
    number: u16,
}

impl Sample {
    /// A request without a body, or with one of so many bytes; the response has one of so many, too.
    pub(super) fn new(args: &SampleArgs, number: u16, body_bytes: Option<usize>) -> Self {
        let usual = body_bytes.map_or("GET", |_| "POST");
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (names::HOST, HeaderValue::from_static("check.example.com")),
            (names::USER_AGENT, HeaderValue::from_static("portcullis")),
            (names::ACCEPT, HeaderValue::from_static("*/*")),
            (HeaderName::from_static("x-check"), number.into()),
        ] {
            headers.insert(name, value);
        }
        let mut response = HeaderMap::new();
        let text = HeaderValue::from_static("text/plain");
        response.insert(names::CONTENT_TYPE, text.clone());
        if let Some(bytes) = body_bytes {
            headers.insert(names::CONTENT_TYPE, text);
            headers.insert(names::CONTENT_LENGTH, bytes.into());
            response.insert(names::CONTENT_LENGTH, bytes.into());
        }
        for (name, _) in &args.headers {
            headers.remove(name);
        }
        for (name, value) in &args.headers {
            headers.append(name, value.clone());
        }
        let separator = if args.path.contains('?') { '&' } else { '?' };
        Self {
            method: args.method.clone().unwrap_or_else(|| usual.to_owned()),
            uri: match number {
                0 => args.path.clone(),
                _ => format!("{}{separator}check={number}", args.path),
            },
            headers,
            response,
            number,
        }
    }

    /// The same request for another path.
    pub(super) fn with_path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.uri);
        self
    }

    /// The method and the target.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.uri)
    }

    pub(super) fn head<'a>(&'a self, id: &'a str) -> Event<'a> {
        Event::RequestHeaders(RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: id,
                request_id: id,
                client_ip: self.client(),
                client_port: 50_000,
                server_name: None,
                protocol: "HTTP/1.1",
                tls_version: None,
                tls_cipher: None,
                client_certificate: None,
                route_id: Some("check"),
                upstream_id: Some("check"),
                timestamp: SystemTime::now(),
                traceparent: None,
            },
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            budget_left: Some(Duration::from_secs(5)),
        })
    }

    pub(super) fn response_head<'a>(&'a self, id: &'a str) -> Event<'a> {
        Event::ResponseHeaders(ResponseHeaders {
            correlation_id: id,
            status: 200,
            headers: &self.response,
            budget_left: Some(Duration::from_secs(5)),
        })
    }

    /// A frame of text, of the client or of the server.
    pub(super) fn frame<'a>(&self, id: &'a str, data: Bytes, place: (bool, u64)) -> Event<'a> {
        let (client_to_server, index) = place;
        Event::WebSocketFrame(WebSocketFrame {
            correlation_id: id,
            opcode: FrameOpcode::Text,
            data,
            client_to_server,
            index,
            fin: true,
            route_id: Some("check"),
            client_ip: self.client(),
            budget_left: Some(Duration::from_secs(5)),
        })
    }

    pub(super) fn complete(id: &str) -> Event<'_> {
        Event::RequestComplete(RequestComplete {
            correlation_id: id,
            status: 200,
            duration: Duration::from_millis(3),
            request_body_size: 0,
            response_body_size: 0,
            upstream_attempts: 1,
            error: None,
        })
    }

    /// The one question of this kind that needs none before it.
    pub(super) fn single<'a>(&'a self, kind: EventKind, id: &'a str, data: &Bytes) -> Event<'a> {
        match kind {
            EventKind::RequestBodyChunk | EventKind::ResponseBodyChunk => {
                chunks(kind, id, std::slice::from_ref(data)).remove(0)
            }
            EventKind::ResponseHeaders => self.response_head(id),
            EventKind::WebSocketFrame => self.frame(id, data.clone(), (true, 0)),
            EventKind::RequestComplete => Self::complete(id),
            _ => self.head(id),
        }
    }

    /// From the addresses that documents may use (RFC 5737).
    fn client(&self) -> IpAddr {
        let [_, low] = self.number.to_be_bytes();
        [203, 0, 113, low].into()
    }

    /// Text of this size, which differs from request to request.
    pub(super) fn text(&self, bytes: usize) -> Bytes {
        let mut text = format!("request {}: ", self.number).into_bytes();
        while text.len() < bytes {
            let room = bytes - text.len();
            text.extend_from_slice(&TEXT.as_bytes()[..room.min(TEXT.len())]);
        }
        text.truncate(bytes);
        text.into()
    }
}

/// A body in these pieces, as questions of this kind.
pub(super) fn chunks<'a>(kind: EventKind, id: &'a str, pieces: &[Bytes]) -> Vec<Event<'a>> {
    let total: usize = pieces.iter().map(Bytes::len).sum();
    let mut transferred = 0;
    let chunk = |(index, data): (usize, &Bytes)| {
        transferred += data.len() as u64;
        let chunk = BodyChunk {
            correlation_id: id,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            data: data.clone(),
            is_last: index + 1 == pieces.len(),
            total_size: Some(total as u64),
            transferred,
            truncated: false,
            trailers: None,
            budget_left: Some(Duration::from_secs(5)),
        };
        match kind {
            EventKind::ResponseBodyChunk => Event::ResponseBodyChunk(chunk),
            _ => Event::RequestBodyChunk(chunk),
        }
    };
    pieces.iter().enumerate().map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_body_are_counted() {
        let pieces = [&b"ab"[..], b"", b"c"].map(Bytes::from_static);
        let told: Vec<_> = chunks(EventKind::ResponseBodyChunk, "c", &pieces)
            .into_iter()
            .map(|event| match event {
                Event::ResponseBodyChunk(chunk) => (
                    chunk.index,
                    chunk.transferred,
                    chunk.is_last,
                    chunk.total_size,
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        let total = Some(3);
        let expected = [
            (0, 2, false, total),
            (1, 2, false, total),
            (2, 3, true, total),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn requests_differ_by_their_numbers() {
        let args = SampleArgs {
            method: None,
            path: "/a?b=1".to_owned(),
            headers: vec![header("accept: text/html").unwrap()],
        };
        let one = Sample::new(&args, 1, None);
        assert_eq!(one.line(), "GET /a?b=1&check=1");
        assert_eq!(one.headers["accept"], "text/html");
        let two = Sample::new(&args, 0, Some(5));
        assert_eq!(two.line(), "POST /a?b=1");
        assert_eq!(two.headers["content-length"], "5");
        assert_ne!(one.text(40), two.text(40));
        assert_eq!(one.text(4).len(), 4);
        assert_eq!(one.text(4000).len(), 4000);
    }
}
