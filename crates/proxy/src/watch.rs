//! Waits for agents and listens to the client meanwhile, so that nobody works for a client that is gone.

use crate::{
    filter::{self, Flow},
    request::Request,
};
use pingora::{
    Error, ErrorType::ConnectionClosed, Result, protocols::http::ServerSession, proxy::Session,
};
use std::future::pending;

/// Runs the filter chain on the way in.
///
/// # Errors
/// The client went away, or a change that the request's head does not take.
pub(crate) async fn on_request(session: &mut Session, request: &mut Request) -> Result<Flow> {
    let asks = request
        .route
        .as_deref()
        .is_some_and(|route| route.asks_agents);
    request.has_body = !session.is_body_empty();
    // A body that nobody has read yet cannot be told from the end of the stream without reading it.
    if !asks || request.has_body {
        return filter::on_request(session.req_header_mut(), request).await;
    }
    let (placeholder, ()) = http::Request::new(()).into_parts();
    let mut head = std::mem::replace(session.req_header_mut(), placeholder.into());
    let flow = tokio::select! {
        biased;
        flow = filter::on_request(&mut head, request) => flow,
        _ = gone(&mut session.downstream_session) => {
            Error::e_explain(ConnectionClosed, "the client went away while agents were asked")
                .map_err(|error: Box<Error>| error.into_down())
        }
    };
    *session.req_header_mut() = head;
    flow
}

/// Returns when the client is gone. What it sends is not its end: a next request may wait behind this one.
pub(crate) async fn gone(session: &mut ServerSession) -> Box<Error> {
    match session.read_body_or_idle(true).await {
        Ok(_) => pending().await,
        Err(error) => error.into_down(),
    }
}
