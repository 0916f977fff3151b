//! Asks a target by `grpc.health.v1.Health/Check`.

use super::{NO_HTTP2, http::USER_AGENT, is_other, uri};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Version, header};
use pingora::{
    Result, connectors::http::Connector, http::RequestHeader, protocols::http::client::HttpSession,
    upstreams::peer::HttpPeer,
};
use prost::Message;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// `ServingStatus.SERVING`
const SERVING: i32 = 1;
/// A frame's flag and length.
const PREFIX: usize = 5;
/// Bytes of an answer that are read. One has seven.
const MOST_BYTES: usize = 1024;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The inner error is what is wrong with the answer.
///
/// # Errors
/// There was none.
pub(super) async fn ask(
    connector: &Connector,
    peer: &HttpPeer,
    service: &str,
    host: &str,
) -> Result<std::result::Result<(), String>> {
    let mut head = RequestHeader::build("POST", PATH.as_bytes(), None)?;
    head.set_version(Version::HTTP_2);
    head.set_uri(uri(peer, host, PATH)?);
    head.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    head.insert_header(header::TE, "trailers")?;
    head.insert_header(header::USER_AGENT, USER_AGENT)?;
    let (mut session, _) = connector.get_http_session(peer).await?;
    if is_other(&session, peer) {
        return Ok(Err(NO_HTTP2.to_owned()));
    }
    session.set_write_timeout(peer.options.write_timeout);
    session.set_read_timeout(peer.options.read_timeout);
    session.write_request_header(Box::new(head)).await?;
    session.write_request_body(question(service), true).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let Some(head) = session.response_header() else {
        return Ok(Err("no head of a response".to_owned()));
    };
    if head.status != 200 {
        return Ok(Err(format!("status {}", head.status.as_u16())));
    }
    let headers = head.headers.clone();
    let mut body = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        body.extend_from_slice(&piece);
        if body.len() > MOST_BYTES {
            return Ok(Err("the answer is too long".to_owned()));
        }
    }
    let trailers = match &mut session {
        HttpSession::H2(session) => session.read_trailers().await?,
        _ => None,
    };
    Ok(judge(&headers, trailers.as_ref(), &body))
}

/// A frame of gRPC with the question.
fn question(service: &str) -> Bytes {
    let message = HealthCheckRequest {
        service: service.to_owned(),
    }
    .encode_to_vec();
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

fn judge(headers: &HeaderMap, trailers: Option<&HeaderMap>, body: &[u8]) -> Result<(), String> {
    let of = |headers: &HeaderMap| headers.get("grpc-status").cloned();
    let status = trailers.and_then(of).or_else(|| of(headers));
    match status.as_ref().map(http::HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(status) => return Err(format!("gRPC status {}", String::from_utf8_lossy(status))),
        None => return Err("no gRPC status".to_owned()),
    }
    let message = body.get(PREFIX..).unwrap_or_default();
    match HealthCheckResponse::decode(message) {
        Ok(answer) if answer.status == SERVING => Ok(()),
        Ok(answer) => Err(format!("serving status {}", answer.status)),
        Err(_) => Err("the answer cannot be decoded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_question_is_as_grpc_writes_it() {
        assert_eq!(&*question(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*question("a"), [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
    }

    #[test]
    fn only_serving_is_healthy() {
        let status = |code: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(code));
            headers
        };
        let none = HeaderMap::new();
        let serving = [0, 0, 0, 0, 2, 8, 1];
        let ok = status("0");
        assert_eq!(judge(&none, Some(&ok), &serving), Ok(()));
        for (headers, trailers, body) in [
            (&none, Some(&ok), &[0, 0, 0, 0, 2, 8, 2][..]),
            (&none, Some(&ok), &[0, 0, 0, 0, 0]),
            (&none, Some(&ok), &[]),
            (&none, Some(&ok), &[0, 0, 0, 0, 2, 8]),
            (&none, Some(&status("5")), &serving),
            (&status("12"), None, &[]),
            (&none, None, &serving),
        ] {
            assert!(
                judge(headers, trailers, body).is_err(),
                "{trailers:?} {body:?}"
            );
        }
    }
}
