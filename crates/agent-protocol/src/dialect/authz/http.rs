//! Envoy's external authorization over HTTP: the request itself goes to the service, without what it need not know, and
//! the status of the answer is the verdict.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};

use super::deferred::{Deferred, Shown};
use super::relay;
use crate::dialect::exchanges::{Dialect, Exchange};
use crate::dialect::http_client::{HttpAnswer, HttpClient, HttpEndpoint};
use crate::header_name::{HeaderNames, remove_alike};
use crate::{
    CallError, Capabilities, ConnectError, ConnectOptions, Decision, Event, HeaderOp,
    RequestHeaders,
};

/// Names of headers that shall be taken off the request, in the answer of the service.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";
/// Tells the service whether a body that it is shown is cut short.
pub(super) const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// How a service is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtAuthzHttpOptions {
    /// Headers of an answer that lets pass which go to the upstream.
    pub copy_headers: HeaderNames,
    /// Headers of an answer that lets pass which go to the client, with the response.
    pub copy_to_client: HeaderNames,
    /// The service is shown the bodies of requests.
    pub with_body: bool,
    /// The largest body of an answer, in bytes.
    pub max_body: usize,
}

/// A connection to a service of this dialect.
#[derive(Debug)]
pub(crate) struct ExtAuthzHttp {
    client: HttpClient,
    options: ExtAuthzHttpOptions,
    deferred: Deferred<Request<Bytes>>,
}

impl ExtAuthzHttp {
    /// # Errors
    /// Nobody answers there within the time that a handshake may take.
    pub(crate) async fn connect(
        endpoint: &HttpEndpoint,
        options: &ExtAuthzHttpOptions,
        connect: &ConnectOptions,
    ) -> Result<(Self, Capabilities), ConnectError> {
        let client = HttpClient::connect(endpoint, connect.handshake_timeout).await?;
        let dialect = Self {
            client,
            options: options.clone(),
            deferred: Deferred::new(),
        };
        let capabilities = super::capabilities("ext-authz", options.with_body);
        Ok((dialect, capabilities))
    }

    fn check(&self, request: Result<Request<Bytes>, CallError>) -> Exchange<Decision> {
        let (client, options) = (self.client.clone(), self.options.clone());
        Box::pin(async move { decide(client.send(request?).await?, &options).await })
    }
}

fn request(url: &Uri, event: &RequestHeaders<'_>) -> Result<Request<Bytes>, CallError> {
    let untold = |error: &dyn std::fmt::Display| {
        CallError::Agent(format!("the request cannot be told: {error}"))
    };
    let mut parts = url.clone().into_parts();
    let target = format!("{}{}", url.path().trim_end_matches('/'), event.uri);
    let target = target.parse().map_err(|error| untold(&error))?;
    parts.path_and_query = Some(target);
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| untold(&error))?;
    *request.method_mut() =
        Method::from_bytes(event.method.as_bytes()).map_err(|error| untold(&error))?;
    let mut headers = event.headers.clone();
    relay::remove_hop_by_hop(&mut headers);
    headers.remove(EXPECT);
    remove_alike(&mut headers, &PARTIAL_BODY);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    *request.headers_mut() = headers;
    Ok(request)
}

fn with_body(mut request: Request<Bytes>, shown: Shown) -> Request<Bytes> {
    let headers = request.headers_mut();
    let partial = if shown.is_partial { "true" } else { "false" };
    headers.insert(PARTIAL_BODY, HeaderValue::from_static(partial));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(shown.data.len()));
    *request.body_mut() = shown.data;
    request
}

async fn decide(answer: HttpAnswer, options: &ExtAuthzHttpOptions) -> Result<Decision, CallError> {
    let status = answer.status;
    if status.is_server_error() {
        return Err(CallError::Agent(format!("status {}", status.as_u16())));
    }
    let headers = answer.headers.clone();
    let body = answer.body(options.max_body).await?;
    if status != StatusCode::OK {
        return Ok(relay::relayed(status.as_u16(), &headers, body));
    }
    let mut decision = Decision::allow();
    let removed = headers
        .get_all(TO_REMOVE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty());
    decision.request_headers = removed.map(|name| HeaderOp::Remove { name }).collect();
    let copied = relay::copied(&headers, &options.copy_headers)?;
    decision.request_headers.extend(copied);
    decision.response_headers = relay::added(&headers, &options.copy_to_client)?;
    Ok(decision)
}

impl Dialect for ExtAuthzHttp {
    fn ask(&self, event: &Event<'_>) -> Exchange<Decision> {
        let ready = |decision| Box::pin(std::future::ready(decision));
        match event {
            Event::RequestHeaders(head) => {
                let question = match request(self.client.url(), head) {
                    Ok(question) => question,
                    Err(error) => return ready(Err(error)),
                };
                match self.deferred.keep(head.metadata.correlation_id, question) {
                    Some(question) => self.check(Ok(question)),
                    None => ready(Ok(Decision::allow().provisional())),
                }
            }
            Event::RequestBodyChunk(piece) => match self.deferred.add(piece) {
                Ok(Some((question, shown))) => self.check(Ok(with_body(question, shown))),
                Ok(None) => ready(Ok(Decision::allow().provisional())),
                Err(error) => ready(Err(error)),
            },
            _ => ready(Err(CallError::Agent(
                "it is asked about requests alone".to_owned(),
            ))),
        }
    }

    fn ping(&self) -> Exchange<()> {
        let client = self.client.clone();
        Box::pin(async move { client.reach().await.map_err(|_| CallError::Closed) })
    }

    fn binds_requests(&self) -> bool {
        self.options.with_body
    }

    fn body_follows(&self, correlation_id: &str) {
        if self.options.with_body {
            self.deferred.announce(correlation_id);
        }
    }

    fn forget(&self, correlation_id: &str) {
        self.deferred.forget(correlation_id);
    }
}

#[cfg(test)]
pub(super) fn told(url: &Uri, event: &RequestHeaders<'_>, shown: Option<Shown>) -> Request<Bytes> {
    let request = request(url, event).unwrap();
    match shown {
        Some(shown) => with_body(request, shown),
        None => request,
    }
}
