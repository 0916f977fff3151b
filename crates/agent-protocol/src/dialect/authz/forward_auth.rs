//! forward-auth, as nginx's `auth_request`, Caddy and Traefik have it: a GET about each request, whose status is the verdict.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};

use super::relay;
use crate::dialect::exchanges::{Dialect, Exchange};
use crate::dialect::http_client::{HttpAnswer, HttpClient, HttpEndpoint};
use crate::header_name::{HeaderNames, insert_alone, remove_alike};
use crate::{
    CallError, Capabilities, ConnectError, ConnectOptions, Decision, Event, RequestHeaders,
};

/// How a service is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardAuthOptions {
    /// Headers of an answer that lets pass which go to the upstream.
    pub copy_headers: HeaderNames,
    /// Headers of an answer that lets pass which go to the client, with the response.
    pub copy_to_client: HeaderNames,
    /// An answer with a status of 500 or more goes to the client. `false`: it is a failure.
    pub relay_failures: bool,
    /// The largest body of an answer, in bytes.
    pub max_body: usize,
}

/// A connection to a service of this dialect.
#[derive(Debug)]
pub(crate) struct ForwardAuth {
    client: HttpClient,
    options: ForwardAuthOptions,
}

/// What is about the resource and not about who asks for it, and about a body that does not come along. Conditions would
/// make an answer of what is meant to be a verdict.
const NOT_ASKED: [&str; 8] = [
    "content-encoding",
    "expect",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
];

impl ForwardAuth {
    /// # Errors
    /// Nobody answers there within the time that a handshake may take.
    pub(crate) async fn connect(
        endpoint: &HttpEndpoint,
        options: &ForwardAuthOptions,
        connect: &ConnectOptions,
    ) -> Result<(Self, Capabilities), ConnectError> {
        let client = HttpClient::connect(endpoint, connect.handshake_timeout).await?;
        let options = options.clone();
        Ok((
            Self { client, options },
            super::capabilities("forward-auth", false),
        ))
    }

    fn request(&self, event: &RequestHeaders<'_>) -> Result<Request<Bytes>, CallError> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.client.url().clone();
        *request.headers_mut() = headers(event)?;
        Ok(request)
    }
}

fn headers(event: &RequestHeaders<'_>) -> Result<HeaderMap, CallError> {
    let mut headers = event.headers.clone();
    relay::remove_hop_by_hop(&mut headers);
    for name in NOT_ASKED {
        remove_alike(&mut headers, &HeaderName::from_static(name));
    }
    let value = |text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|error| CallError::Agent(format!("the request cannot be told: {error}")))
    };
    let (host, scheme) = (relay::host(event), relay::scheme(event));
    // The service is called by its own name.
    headers.remove(http::header::HOST);
    let url = [
        scheme.as_bytes(),
        b"://",
        host.as_bytes(),
        event.uri.as_bytes(),
    ]
    .concat();
    let url = HeaderValue::from_bytes(&url)
        .map_err(|error| CallError::Agent(format!("the request cannot be told: {error}")))?;
    // A client may have sent names that are read as these, and services believe them.
    for (name, told) in [
        ("x-forwarded-method", value(event.method)?),
        ("x-forwarded-uri", value(event.uri)?),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", HeaderValue::from_static(scheme)),
        ("x-original-method", value(event.method)?),
        ("x-original-uri", value(event.uri)?),
        ("x-original-url", url),
    ] {
        insert_alone(&mut headers, HeaderName::from_static(name), told);
    }
    // That one is right already, where it is told.
    let chain = match headers.get("x-forwarded-for") {
        Some(chain) => chain.clone(),
        None => value(&event.metadata.client_ip.to_string())?,
    };
    let name = HeaderName::from_static("x-forwarded-for");
    insert_alone(&mut headers, name, chain);
    Ok(headers)
}

async fn decide(answer: HttpAnswer, options: &ForwardAuthOptions) -> Result<Decision, CallError> {
    let status = answer.status.as_u16();
    if status >= 500 && !options.relay_failures {
        return Err(CallError::Agent(format!("status {status}")));
    }
    if answer.status.is_success() {
        let mut decision = Decision::allow();
        decision.request_headers = relay::copied(&answer.headers, &options.copy_headers)?;
        decision.response_headers = relay::added(&answer.headers, &options.copy_to_client)?;
        // Nobody gets it, but an answer that breaks off is none.
        answer.body(options.max_body).await?;
        return Ok(decision);
    }
    let headers = answer.headers.clone();
    let body = answer.body(options.max_body).await?;
    Ok(relay::relayed(status, &headers, body))
}

impl Dialect for ForwardAuth {
    fn ask(&self, event: &Event<'_>) -> Exchange<Decision> {
        let Event::RequestHeaders(head) = event else {
            return Box::pin(std::future::ready(Err(CallError::Agent(
                "it is asked about heads of requests alone".to_owned(),
            ))));
        };
        let request = self.request(head);
        let (client, options) = (self.client.clone(), self.options.clone());
        Box::pin(async move { decide(client.send(request?).await?, &options).await })
    }

    fn ping(&self) -> Exchange<()> {
        let client = self.client.clone();
        Box::pin(async move { client.reach().await.map_err(|_| CallError::Closed) })
    }
}

#[cfg(test)]
pub(super) fn told(event: &RequestHeaders<'_>) -> HeaderMap {
    headers(event).unwrap()
}
