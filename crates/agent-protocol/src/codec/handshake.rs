//! The handshake and the configuration, which are always JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::shown;
use crate::{Capabilities, Extensions, ProtocolError};

/// The version of the protocol that this library speaks.
pub const PROTOCOL_VERSION: u32 = 2;

/// The encoding that every peer understands.
pub const JSON: &str = "json";

/// The id of a connection's first configuration among event ids; events and
/// later configurations are above it.
pub const CONFIGURE_EVENT_ID: u64 = 0;

/// The first message of a connection, from the proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandshakeRequest<'a> {
    /// The versions that the proxy speaks.
    pub supported_versions: Vec<u32>,
    /// What the proxy calls itself.
    #[serde(default)]
    pub proxy_id: Cow<'a, str>,
    /// The version of the proxy.
    #[serde(default)]
    pub proxy_version: Cow<'a, str>,
    /// The agent's configuration; `null` when there is none.
    #[serde(default)]
    pub config: Cow<'a, Value>,
    /// The encodings that the proxy speaks; missing means JSON.
    #[serde(default = "json_alone")]
    pub supported_encodings: Vec<Cow<'a, str>>,
    /// The names of the extensions that the proxy can do; left out by legacy
    /// proxies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Cow<'a, str>>,
}

fn json_alone() -> Vec<Cow<'static, str>> {
    vec![Cow::Borrowed(JSON)]
}

/// The answer to it, from the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandshakeResponse {
    /// The version that the agent chose.
    pub protocol_version: u32,
    /// What the agent says about itself.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Whether the conversation goes on.
    pub success: bool,
    /// Why it does not.
    #[serde(default)]
    pub error: Option<String>,
    /// The encoding that the agent chose; missing means JSON.
    #[serde(default)]
    pub encoding: Option<String>,
    /// The names of the extensions that the agent chose; left out by legacy
    /// agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
}

/// What became of a handshake, on the proxy's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreement {
    /// The agent is as it says, and chose these extensions.
    Accepted(Capabilities, Extensions),
    /// The agent refused, and why.
    Refused(String),
}

/// Appends the payload of a message.
///
/// # Errors
/// When the message cannot be written as JSON.
pub fn encode(out: &mut Vec<u8>, message: &impl Serialize) -> Result<(), serde_json::Error> {
    serde_json::to_writer(out, message)
}

/// Reads the proxy's first message.
///
/// # Errors
/// What is wrong with it.
pub fn decode_request(payload: &[u8]) -> Result<HandshakeRequest<'static>, ProtocolError> {
    serde_json::from_slice(payload)
        .map_err(|error| ProtocolError::malformed("handshake request", error))
}

/// Reads the agent's answer to it, and checks that the agent chose among what
/// was offered.
///
/// # Errors
/// What is wrong with it.
pub fn decode_response(payload: &[u8], offered: Extensions) -> Result<Agreement, ProtocolError> {
    let response = serde_json::from_slice(payload)
        .map_err(|error| ProtocolError::malformed("handshake response", error))?;
    agree(response, offered)
}

/// Checks that the agent chose among what was offered.
///
/// # Errors
/// What it chose that was not.
pub fn agree(response: HandshakeResponse, offered: Extensions) -> Result<Agreement, ProtocolError> {
    if !response.success {
        let reason = response
            .error
            .unwrap_or_else(|| "the agent gave no reason".to_owned());
        return Ok(Agreement::Refused(reason));
    }
    let not_offered = |what, chosen: &str| {
        let chosen = shown(chosen);
        Err(ProtocolError::NotOffered { what, chosen })
    };
    if response.protocol_version != PROTOCOL_VERSION {
        return not_offered("version", &response.protocol_version.to_string());
    }
    if let Some(encoding) = response.encoding.filter(|encoding| encoding != JSON) {
        return not_offered("encoding", &encoding);
    }
    match Extensions::from_names(response.extensions.iter().map(String::as_str)) {
        Ok(chosen) if chosen.is_within(offered) => {
            Ok(Agreement::Accepted(response.capabilities, chosen))
        }
        Ok(chosen) => not_offered("extensions", &chosen.names().join(", ")),
        Err(unknown) => not_offered("extension", unknown),
    }
}

/// The agent's configuration, from the proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configure<'a> {
    /// The configuration.
    pub config: Cow<'a, Value>,
    /// Its version, for people; `None` when the proxy does not say.
    #[serde(default)]
    pub config_version: Option<Cow<'a, str>>,
    /// What the answer names the message by.
    #[serde(default)]
    pub correlation_id: Cow<'a, str>,
    /// The same for peers that know `event-id`; while the connection opens it
    /// is [`CONFIGURE_EVENT_ID`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<u64>,
}

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it.
pub fn decode_configure(payload: &[u8]) -> Result<Configure<'static>, ProtocolError> {
    serde_json::from_slice(payload).map_err(|error| ProtocolError::malformed("configure", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_exactly_what_legacy_agents_read() {
        let request = HandshakeRequest {
            supported_versions: vec![2],
            proxy_id: "p".into(),
            proxy_version: "1.2".into(),
            config: Cow::Owned(Value::Null),
            supported_encodings: json_alone(),
            extensions: Vec::new(),
        };
        let mut out = Vec::new();
        encode(&mut out, &request).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"supported_versions":[2],"proxy_id":"p","proxy_version":"1.2","config":null,"supported_encodings":["json"]}"#
        );
        let short = decode_request(br#"{"supported_versions":[1,2]}"#).unwrap();
        assert_eq!(short.supported_encodings, [JSON]);
        assert!(decode_request(b"{}").is_err());
    }

    #[test]
    fn a_response_with_every_member_and_one_with_few() {
        let full = br#"{"protocol_version":2,
            "capabilities":{"agent_id":"echo","name":"Echo","version":"1.0.0","supported_events":[1,2,3],
              "features":{"streaming_body":false,"websocket":false,"guardrails":false,"config_push":false,
                "metrics_export":false,"concurrent_requests":100,"cancellation":true,"flow_control":false,
                "health_reporting":false},
              "limits":{"max_body_size":10485760,"max_concurrency":100,"preferred_chunk_size":65536}},
            "success":true,"error":null,"encoding":"json"}"#;
        let Ok(Agreement::Accepted(capabilities, extensions)) =
            decode_response(full, Extensions::ALL)
        else {
            panic!("refused");
        };
        assert_eq!(capabilities.agent_id, "echo");
        assert_eq!(capabilities.supported_events, [1, 2, 3]);
        assert_eq!(capabilities.features.concurrent_requests, 100);
        assert!(capabilities.features.cancellation);
        assert_eq!(extensions, Extensions::NONE);

        let short = decode_response(br#"{"protocol_version":2,"success":true}"#, Extensions::ALL);
        let expected = Agreement::Accepted(Capabilities::default(), Extensions::NONE);
        assert_eq!(short, Ok(expected));
    }

    #[test]
    fn the_agent_may_only_choose_what_was_offered() {
        let json_only = Extensions {
            event_id: true,
            ..Extensions::NONE
        };
        let table = [
            (r#""protocol_version":1,"success":true"#, "version"),
            (
                r#""protocol_version":2,"success":true,"encoding":"msgpack""#,
                "encoding",
            ),
            (
                r#""protocol_version":2,"success":true,"extensions":["error"]"#,
                "extensions",
            ),
            (
                r#""protocol_version":2,"success":true,"extensions":["telepathy"]"#,
                "extension",
            ),
        ];
        for (members, expected) in table {
            let decoded = decode_response(format!("{{{members}}}").as_bytes(), json_only);
            let Err(ProtocolError::NotOffered { what, .. }) = decoded else {
                panic!("{members}: {decoded:?}");
            };
            assert_eq!(what, expected);
        }
    }

    #[test]
    fn a_refusal_has_a_reason() {
        let table = [
            (
                r#"{"protocol_version":0,"success":false,"error":"no"}"#,
                "no",
            ),
            (
                r#"{"protocol_version":2,"success":false}"#,
                "the agent gave no reason",
            ),
        ];
        for (text, reason) in table {
            let decoded = decode_response(text.as_bytes(), Extensions::ALL);
            assert_eq!(decoded, Ok(Agreement::Refused(reason.to_owned())));
        }
    }
}
