//! Registration: how a connection begins that the agent has dialled. The
//! types of the frames are those of the handshake, and the payloads are always
//! JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::handshake::PROTOCOL_VERSION;
use crate::error::shown;
use crate::{Capabilities, Extensions, ProtocolError};

/// The first message of the connection, from the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration<'a> {
    /// The version that the agent speaks.
    pub protocol_version: u32,
    /// As which agent of the proxy's configuration it registers.
    pub agent_id: Cow<'a, str>,
    /// What the agent says about itself.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// What shows that it may.
    #[serde(default)]
    pub auth_token: Option<Cow<'a, str>>,
    /// Anything else; not looked at.
    #[serde(default)]
    pub metadata: serde_json::Value,
    /// The names of the extensions that the agent can do; left out by legacy
    /// agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Cow<'a, str>>,
}

/// The answer to it, from the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationReply {
    /// Whether the conversation goes on.
    pub success: bool,
    /// Why it does not.
    #[serde(default)]
    pub error: Option<String>,
    /// What the proxy calls itself.
    #[serde(default)]
    pub proxy_id: String,
    /// The version of the proxy.
    #[serde(default)]
    pub proxy_version: String,
    /// The name of the connection, for logs.
    #[serde(default)]
    pub connection_id: String,
    /// The names of the extensions that the proxy chose; left out by legacy
    /// proxies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
}

/// Reads the agent's first message.
///
/// # Errors
/// What is wrong with it; also that it is of another version.
pub fn decode_registration(payload: &[u8]) -> Result<Registration<'static>, ProtocolError> {
    let registration: Registration<'static> = serde_json::from_slice(payload)
        .map_err(|error| ProtocolError::malformed("registration", error))?;
    match registration.protocol_version {
        PROTOCOL_VERSION => Ok(registration),
        version => Err(ProtocolError::malformed(
            "registration",
            format_args!("version {version} is not spoken"),
        )),
    }
}

/// Reads the proxy's answer: what it chose among what was offered, or why it
/// refuses.
///
/// # Errors
/// What is wrong with it.
pub fn decode_reply(
    payload: &[u8],
    offered: Extensions,
) -> Result<Result<Extensions, String>, ProtocolError> {
    let reply: RegistrationReply = serde_json::from_slice(payload)
        .map_err(|error| ProtocolError::malformed("answer to the registration", error))?;
    if !reply.success {
        let reason = reply.error;
        return Ok(Err(
            reason.unwrap_or_else(|| "the proxy gave no reason".to_owned())
        ));
    }
    let not_offered = |chosen: &str| ProtocolError::NotOffered {
        what: "extensions",
        chosen: shown(chosen),
    };
    match Extensions::from_names(reply.extensions.iter().map(String::as_str)) {
        Ok(chosen) if chosen.is_within(offered) => Ok(Ok(chosen)),
        Ok(chosen) => Err(not_offered(&chosen.names().join(", "))),
        Err(unknown) => Err(not_offered(unknown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_with_few_members_and_one_of_another_version() {
        let shortest = br#"{"protocol_version":2,"agent_id":"waf-1"}"#;
        let read = decode_registration(shortest).unwrap();
        assert_eq!((&*read.agent_id, &read.auth_token), ("waf-1", &None));
        assert!(read.extensions.is_empty());
        for text in [
            r#"{"protocol_version":1,"agent_id":"waf-1"}"#,
            r#"{"protocol_version":2}"#,
            "{}",
        ] {
            assert!(decode_registration(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_may_choose_among_what_was_offered() {
        let legacy = br#"{"success":true,"error":null,"proxy_id":"p","proxy_version":"1","connection_id":"waf-1-18c"}"#;
        assert_eq!(
            decode_reply(legacy, Extensions::ALL),
            Ok(Ok(Extensions::NONE))
        );
        let refused = br#"{"success":false}"#;
        let reason = "the proxy gave no reason".to_owned();
        assert_eq!(decode_reply(refused, Extensions::ALL), Ok(Err(reason)));
        for names in [r#"["telepathy"]"#, r#"["event-id"]"#] {
            let text = format!(r#"{{"success":true,"extensions":{names}}}"#);
            assert!(decode_reply(text.as_bytes(), Extensions::NONE).is_err());
        }
    }
}
