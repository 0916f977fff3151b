//! An agent of version 1 that is called over HTTP.

use bytes::Bytes;
use http::{Request, header};

use super::{capabilities, configuration, configured, too_large};
use crate::codec::v1;
use crate::dialect::exchanges::{Dialect, Exchange};
use crate::dialect::http_client::HttpClient;
use crate::{CallError, Capabilities, ConnectError, ConnectOptions, Decision, Event, HttpEndpoint};

/// The sockets to one agent, of which each question has one for itself.
#[derive(Debug)]
pub(crate) struct HttpAgent {
    client: HttpClient,
}

impl HttpAgent {
    /// Reaches the agent, and hands over the configuration if there is one.
    pub(crate) async fn connect(
        endpoint: &HttpEndpoint,
        options: &ConnectOptions,
    ) -> Result<(Self, Capabilities), ConnectError> {
        let opened = tokio::time::timeout(options.handshake_timeout, open(endpoint, options)).await;
        let client = opened.map_err(|_| ConnectError::Timeout)??;
        Ok((Self { client }, capabilities(options)))
    }
}

async fn open(
    endpoint: &HttpEndpoint,
    options: &ConnectOptions,
) -> Result<HttpClient, ConnectError> {
    let client = HttpClient::connect(endpoint, options.handshake_timeout).await?;
    if let Some(question) = configuration(options)? {
        configured(ask(client.clone(), question).await)?;
    }
    Ok(client)
}

async fn ask(client: HttpClient, question: Vec<u8>) -> Result<Decision, CallError> {
    let request = Request::post(client.url().clone())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(question))
        .map_err(|error| CallError::Agent(error.to_string()))?;
    let answer = client.send(request).await?;
    if !answer.status.is_success() {
        return Err(CallError::Agent(format!("it answered {}", answer.status)));
    }
    let body = answer.body(v1::MAX_MESSAGE_BYTES).await?;
    Ok(v1::decode_answer(&body)?)
}

impl Dialect for HttpAgent {
    fn ask(&self, event: &Event<'_>) -> Exchange<Decision> {
        let mut question = Vec::new();
        v1::encode_question(&mut question, event);
        if question.len() > v1::MAX_MESSAGE_BYTES {
            return Box::pin(std::future::ready(Err(too_large(question.len()))));
        }
        Box::pin(ask(self.client.clone(), question))
    }

    fn ping(&self) -> Exchange<()> {
        let client = self.client.clone();
        Box::pin(async move { client.reach().await.map_err(|_| CallError::Closed) })
    }
}
