//! Asks a target by a GET.

use super::{NO_HTTP2, is_other, uri};
use http::{Version, header};
use pingora::{
    Result, connectors::http::Connector, http::RequestHeader, protocols::http::client::HttpSession,
    upstreams::peer::HttpPeer,
};
use std::ops::RangeInclusive;

/// What asks, in logs of targets.
pub(super) const USER_AGENT: &str = "portcullis-health-check";

/// The inner error is what is wrong with the answer.
///
/// # Errors
/// There was none.
pub(super) async fn ask(
    connector: &Connector,
    peer: &HttpPeer,
    path: &str,
    host: &str,
    expected: &[RangeInclusive<u16>],
) -> Result<std::result::Result<(), String>> {
    let mut head = RequestHeader::build("GET", path.as_bytes(), None)?;
    head.insert_header(header::USER_AGENT, USER_AGENT)?;
    let (mut session, _) = connector.get_http_session(peer).await?;
    if is_other(&session, peer) {
        return Ok(Err(NO_HTTP2.to_owned()));
    }
    if matches!(session, HttpSession::H2(_)) {
        head.set_version(Version::HTTP_2);
        head.set_uri(uri(peer, host, path)?);
    } else {
        head.insert_header(header::HOST, host)?;
    }
    session.set_write_timeout(peer.options.write_timeout);
    session.set_read_timeout(peer.options.read_timeout);
    session.write_request_header(Box::new(head)).await?;
    session.finish_request_body().await?;
    let status = loop {
        session.read_response_header().await?;
        let status = session.response_header().map(|head| head.status.as_u16());
        // What comes ahead of an answer is none.
        if !matches!(status, Some(100..200)) {
            break status.unwrap_or(0);
        }
    };
    let is_good = expected.iter().any(|range| range.contains(&status));
    Ok(if is_good {
        Ok(())
    } else {
        Err(format!("status {status}"))
    })
}
