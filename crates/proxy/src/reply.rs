//! Answers that the proxy gives itself, and the only function that writes one to a client. Which error has which status is
//! decided here and nowhere else.

use crate::{
    error_page::Said, files::FileAnswer, filter, request::Request, trace, upstream::connect,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use pingora::{
    Error, ErrorSource,
    ErrorType::{self, HTTPStatus},
    Result,
    http::{RequestHeader, ResponseHeader},
    protocols::http::ServerSession,
    proxy::Session,
};
use std::time::Duration;

/// Why an exchange ends that took longer than `timeouts` `total`.
pub(crate) const TOTAL_TIMEOUT: ErrorType = ErrorType::CustomCode("total_timeout", 504);

/// What a client gets instead of the upstream's response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// `None` is the short standard text of the status.
    pub(crate) body: Option<Bytes>,
    /// It is the word of an agent, which may have said apart from it how it is coded.
    pub(crate) is_agents_body: bool,
    /// What a gRPC client gets instead; `None` is derived from the status.
    pub(crate) grpc: Option<GrpcStatus>,
}

/// The end of a gRPC call that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrpcStatus {
    /// One of <https://grpc.io/docs/guides/status-codes/>.
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Reply {
    /// The standard answer of a status.
    pub(crate) const fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: None,
            is_agents_body: false,
            grpc: None,
        }
    }

    pub(crate) fn with_grpc(mut self, code: u8, message: impl Into<String>) -> Self {
        self.grpc = Some(GrpcStatus {
            code,
            message: message.into(),
        });
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn with_retry_after(self, after: Option<Duration>) -> Self {
        match after {
            Some(after) => self.with_header(
                header::RETRY_AFTER,
                // Whole seconds (RFC 9110 section 10.2.3), none too few.
                HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64),
            ),
            None => self,
        }
    }

    pub(crate) fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }
}

/// Writes an answer to the client, after the filters that the request has passed had their say about its head.
///
/// # Errors
/// The client is gone.
pub(crate) async fn write(
    session: &mut Session,
    reply: Reply,
    request: &mut Request,
) -> Result<()> {
    end_if_leaving(session, request);
    if reply.status == 413 && !session.is_body_done() {
        // The rest of it would have to be read before the next request.
        session.set_keepalive(None);
    }
    if is_grpc(session.req_header()) {
        return write_grpc(session, reply, request).await;
    }
    let bodiless = matches!(reply.status, 204 | 304);
    let mut head = ResponseHeader::build(reply.status, Some(reply.headers.len() + 6))?;
    for (name, value) in reply.headers {
        head.append_header(name, value)?;
    }
    let body = match reply.body {
        Some(body) => body,
        None => standard_body(session.req_header(), request, &mut head)?,
    };
    if !bodiless {
        if !head.headers.contains_key(header::CONTENT_TYPE) && !body.is_empty() {
            head.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
        }
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    finish(&mut head, request, reply.is_agents_body)?;
    let ends = bodiless || body.is_empty() || session.req_header().method == http::Method::HEAD;
    if ends {
        return write_only_head(session, head).await;
    }
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(body), true).await
}

/// Writes a file to the client, after the filters had their say about its head.
///
/// # Errors
/// The client is gone, or the file cannot be read to its end.
pub(crate) async fn write_file(
    session: &mut Session,
    file: FileAnswer,
    request: &mut Request,
) -> Result<()> {
    end_if_leaving(session, request);
    let mut head = file.head;
    filter::on_response(request, &mut head)?;
    trace::stamp(request, &request.upstream, &mut head)?;
    let Some(mut body) = file.body else {
        return write_only_head(session, head)
            .await
            .map_err(Error::into_down);
    };
    // With a small file it goes out in one write.
    let mut piece = body.next().await?;
    let head = session.write_response_header(Box::new(head), false).await;
    head.map_err(Error::into_down)?;
    loop {
        let ends = body.is_done();
        let written = session.write_response_body(piece, ends).await;
        written.map_err(Error::into_down)?;
        if ends {
            return Ok(());
        }
        piece = body.next().await?;
    }
}

/// The status that the client has got; `None` before there is one. What is sent ahead of an answer is none.
pub(crate) fn answered(session: &Session) -> Option<u16> {
    let status = session.response_written()?.status;
    (!status.is_informational() || status == 101).then_some(status.as_u16())
}

/// Whether the client can tell the end of the answer that it is getting from the end of the connection alone.
pub(crate) fn ends_with_connection(session: &Session) -> bool {
    !session.is_http2()
        && session.response_written().is_some_and(|head| {
            head.status != 101
                && !head.headers.contains_key(header::CONTENT_LENGTH)
                && !head.headers.contains_key(header::TRANSFER_ENCODING)
        })
}

/// Where the listener or the process takes its leave, the answer says that it is the last one of its connection.
pub(crate) fn end_if_leaving(session: &mut Session, request: &Request) {
    let begun = request.begun.as_ref();
    if begun.is_some_and(|begun| begun.connection.is_ending()) {
        session.set_keepalive(None);
    }
}

/// Writes a head that is the whole answer.
async fn write_only_head(session: &mut Session, mut head: ResponseHeader) -> Result<()> {
    // Pingora ends the stream with an empty frame behind the head, and then a head of gRPC is no trailer.
    if let ServerSession::H2(stream) = &mut *session.downstream_session {
        return stream.write_response_header(Box::new(head), true);
    }
    // HTTP/1.1 has to be told that nothing follows.
    let says_nothing = matches!(head.status.as_u16(), 204 | 304);
    if !says_nothing && !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.insert_header(header::CONTENT_LENGTH, 0)?;
    }
    session.write_response_header(Box::new(head), true).await
}

fn is_grpc(head: &RequestHeader) -> bool {
    head.headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A refusal in the form that gRPC knows: an answer of headers alone that are its trailers as well.
async fn write_grpc(session: &mut Session, reply: Reply, request: &mut Request) -> Result<()> {
    /// What a message may not hold as it is (gRPC over HTTP/2, "Percent-Encoded").
    const ENCODED: &AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    let grpc = reply.grpc.unwrap_or_else(|| GrpcStatus {
        code: grpc_code(reply.status),
        message: reason_phrase(reply.status).to_owned(),
    });
    let mut head = ResponseHeader::build(200, Some(reply.headers.len() + 4))?;
    for (name, value) in reply.headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            head.append_header(name, value)?;
        }
    }
    head.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    head.insert_header("grpc-status", grpc.code.to_string())?;
    let message = utf8_percent_encode(&grpc.message, ENCODED).to_string();
    head.insert_header("grpc-message", message)?;
    request.grpc_status = Some(grpc.code);
    finish(&mut head, request, false)?;
    write_only_head(session, head).await
}

/// The filters that the request has passed have their say about the head of an answer. What they say of the coding was meant
/// for another body than one of ours.
fn finish(head: &mut ResponseHeader, request: &Request, is_agents_body: bool) -> Result<()> {
    filter::on_response(request, head)?;
    if !is_agents_body {
        head.remove_header(&header::CONTENT_ENCODING);
    }
    trace::stamp(request, &request.upstream, head)
}

/// The gRPC status that stands for an HTTP status of ours.
const fn grpc_code(status: u16) -> u8 {
    match status {
        400 | 431 | 414 => 3,
        401 => 16,
        403 | 300..=399 => 7,
        404 | 405 => 12,
        408 | 504 => 4,
        413 | 429 => 8,
        502 | 503 => 14,
        _ => 13,
    }
}

/// The status with which a request ends that Pingora could not serve, and the name of the reason for the log. `None` when
/// there is nobody left to answer.
pub(crate) fn from_error(error: &Error) -> Option<(u16, &'static str)> {
    let from_client = *error.esource() == ErrorSource::Downstream;
    Some(match error.etype() {
        ErrorType::CustomCode(reason, status) => (*status, *reason),
        HTTPStatus(413) => (413, "request_body_too_large"),
        HTTPStatus(status) => (*status, "refused"),
        ErrorType::ReadTimedout if from_client => (408, "request_body_timeout"),
        ErrorType::WriteTimedout if from_client => return None,
        // The last one is what a client of HTTP/2 leaves that resets its stream.
        ErrorType::ConnectionClosed
        | ErrorType::ReadError
        | ErrorType::WriteError
        | ErrorType::H2Error
            if from_client =>
        {
            return None;
        }
        _ if from_client => (400, "malformed_request"),
        ErrorType::ConnectTimedout => (504, "upstream_connect_timeout"),
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => (504, "upstream_timeout"),
        kind if connect::is_about_tls(kind) => (502, "upstream_tls"),
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::SocketError => (502, "upstream_unreachable"),
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => {
            (502, "upstream_connection_lost")
        }
        _ if *error.esource() == ErrorSource::Upstream => (502, "upstream_protocol_error"),
        _ => (500, "internal_error"),
    })
}

/// A whole answer of HTTP/1.1 for a connection on which there is no request to answer; it announces the connection's end.
pub(crate) fn raw(status: u16) -> Vec<u8> {
    let reason = reason_phrase(status);
    let body = format!("{status} {reason}\n");
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A page, a problem or a line of text, as the operator has provided for it and the client likes best.
fn standard_body(
    client: &RequestHeader,
    request: &Request,
    head: &mut ResponseHeader,
) -> Result<Bytes> {
    let status = head.status.as_u16();
    let route = request.route.as_deref();
    let begun = request.begun.as_ref();
    let pages = route
        .and_then(|route| route.error_pages.as_deref())
        .or_else(|| begun.map(|begun| &begun.snapshot().error_pages));
    let said = Said {
        status,
        reason: reason_phrase(status),
        request_id: begun.map(|begun| begun.identity.request_id()),
    };
    let Some(pages) = pages.filter(|pages| pages.varies(status)) else {
        return Ok(standard_text(status, request));
    };
    head.append_header(header::VARY, HeaderValue::from_static("accept"))?;
    match pages.choose(said, &client.headers) {
        Some(page) => {
            head.insert_header(header::CONTENT_TYPE, page.content_type)?;
            Ok(page.body)
        }
        None => Ok(standard_text(status, request)),
    }
}

/// What a person sees who is not meant to see more: the status, and the id under which the log has the rest.
fn standard_text(status: u16, request: &Request) -> Bytes {
    let reason = reason_phrase(status);
    match &request.begun {
        Some(begun) => format!(
            "{status} {reason}\nrequest-id: {}\n",
            begun.identity.request_id()
        ),
        None => format!("{status} {reason}\n"),
    }
    .into()
}

fn reason_phrase(status: u16) -> &'static str {
    StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_answers_are_complete_messages() {
        for status in [400, 405, 408, 431] {
            let text = String::from_utf8(raw(status)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")));
            assert!(head.contains(&format!("content-length: {}", body.len())));
            assert!(head.contains("connection: close"));
        }
    }
}
