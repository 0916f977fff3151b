//! The origin inside the binary (`builtin "echo"`): answers with what it was asked, so that a new configuration can be tried
//! without a server behind it. It is a real origin behind a real socket; a request to it takes the way of every other.

use async_trait::async_trait;
use http::{Response, header};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use serde_json::{Map, Value, json};

/// More of a request's body is read but not repeated.
const LONGEST_BODY_BYTES: usize = 64 * 1024;

/// See the module.
pub(crate) struct EchoOrigin;

#[async_trait]
impl ServeHttp for EchoOrigin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let mut body = Vec::new();
        let mut total = 0usize;
        let mut complete = true;
        loop {
            match session.read_request_body().await {
                Ok(Some(chunk)) => {
                    total += chunk.len();
                    let room = LONGEST_BODY_BYTES.saturating_sub(body.len());
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                Ok(None) => break,
                Err(_) => {
                    complete = false;
                    break;
                }
            }
        }
        let head = session.req_header();
        let mut headers: Map<String, Value> = Map::new();
        for (name, value) in &head.headers {
            let value = Value::from(String::from_utf8_lossy(value.as_bytes()));
            match headers
                .entry(name.as_str())
                .or_insert_with(|| Value::Array(Vec::new()))
            {
                Value::Array(values) => values.push(value),
                _ => continue,
            }
        }
        let described = json!({
            "method": head.method.as_str(),
            "uri": String::from_utf8_lossy(head.raw_path()),
            "version": format!("{:?}", head.version),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
            "body_bytes": total,
            "complete": complete,
        });
        let mut text = serde_json::to_vec_pretty(&described).unwrap_or_default();
        text.push(b'\n');
        let mut response = Response::new(text);
        let length = response.body().len();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
        response
    }
}
