//! The handshake in protobuf.

use std::borrow::Cow;

use serde_json::Value;

use super::messages::{
    AgentCapabilities, AgentFeatures, AgentLimits as WireLimits, HandshakeRequest as WireRequest,
    HandshakeResponse as WireResponse,
};
use crate::codec::handshake::{HandshakeRequest, HandshakeResponse, JSON};
use crate::{AgentLimits, Capabilities, EventKind, Features, ProtocolError};

/// The proxy's first message. Encodings have no place in it.
#[must_use]
pub fn encode_handshake_request(request: &HandshakeRequest<'_>) -> WireRequest {
    WireRequest {
        supported_versions: request.supported_versions.clone(),
        proxy_id: request.proxy_id.to_string(),
        proxy_version: request.proxy_version.to_string(),
        config_json: match &*request.config {
            Value::Null => String::new(),
            config => config.to_string(),
        },
        extensions: request.extensions.iter().map(ToString::to_string).collect(),
    }
}

/// Reads the proxy's first message.
///
/// # Errors
/// When the configuration in it is not JSON.
pub fn decode_handshake_request(
    wire: WireRequest,
) -> Result<HandshakeRequest<'static>, ProtocolError> {
    let config = match &*wire.config_json {
        "" => Value::Null,
        text => serde_json::from_str(text)
            .map_err(|error| ProtocolError::malformed("handshake request", error))?,
    };
    Ok(HandshakeRequest {
        supported_versions: wire.supported_versions,
        proxy_id: wire.proxy_id.into(),
        proxy_version: wire.proxy_version.into(),
        config: Cow::Owned(config),
        supported_encodings: vec![Cow::Borrowed(JSON)],
        extensions: wire.extensions.into_iter().map(Cow::Owned).collect(),
    })
}

/// The agent's answer to it.
#[must_use]
pub fn encode_handshake_response(response: HandshakeResponse) -> WireResponse {
    let Capabilities {
        agent_id,
        name,
        version,
        supported_events,
        features,
        limits,
    } = response.capabilities;
    let events = supported_events.into_iter();
    WireResponse {
        protocol_version: response.protocol_version,
        capabilities: Some(AgentCapabilities {
            protocol_version: response.protocol_version,
            agent_id,
            name,
            version,
            supported_events: events.filter_map(|it| i32::try_from(it).ok()).collect(),
            features: Some(AgentFeatures {
                streaming_body: features.streaming_body,
                websocket: features.websocket,
                guardrails: features.guardrails,
                config_push: features.config_push,
                metrics_export: features.metrics_export,
                concurrent_requests: features.concurrent_requests,
                cancellation: features.cancellation,
                flow_control: features.flow_control,
                health_reporting: features.health_reporting,
            }),
            limits: Some(WireLimits {
                max_body_size: limits.max_body_size,
                max_concurrency: limits.max_concurrency,
                preferred_chunk_size: limits.preferred_chunk_size,
            }),
        }),
        success: response.success,
        error: response.error,
        extensions: response.extensions,
    }
}

/// Reads the agent's answer. What it does not say has the defaults that it has
/// in JSON; numbers that are 0 count as not said.
#[must_use]
pub fn decode_handshake_response(wire: WireResponse) -> HandshakeResponse {
    let mut capabilities = wire.capabilities.map(capabilities).unwrap_or_default();
    // Published agents allow every text without a look at it, whatever they
    // announce.
    if !wire.extensions.iter().any(|name| name == "event-id") {
        let guardrail = EventKind::GuardrailInspect as u32;
        capabilities.supported_events.retain(|it| *it != guardrail);
    }
    HandshakeResponse {
        protocol_version: wire.protocol_version,
        capabilities,
        success: wire.success,
        error: wire.error,
        encoding: None,
        extensions: wire.extensions,
    }
}

fn capabilities(wire: AgentCapabilities) -> Capabilities {
    let defaults = Capabilities::default();
    let events = wire.supported_events.into_iter();
    let events: Vec<u32> = events.filter_map(|it| u32::try_from(it).ok()).collect();
    let features = wire.features.unwrap_or_default();
    let limits = wire.limits.unwrap_or_default();
    let said = |number: u64, default| if number == 0 { default } else { number };
    Capabilities {
        agent_id: wire.agent_id,
        name: wire.name,
        version: wire.version,
        supported_events: match events.is_empty() {
            true => defaults.supported_events,
            false => events,
        },
        features: Features {
            streaming_body: features.streaming_body,
            websocket: features.websocket,
            guardrails: features.guardrails,
            config_push: features.config_push,
            metrics_export: features.metrics_export,
            concurrent_requests: features.concurrent_requests,
            cancellation: features.cancellation,
            flow_control: features.flow_control,
            health_reporting: features.health_reporting,
        },
        limits: AgentLimits {
            max_body_size: said(limits.max_body_size, defaults.limits.max_body_size),
            max_concurrency: limits.max_concurrency,
            preferred_chunk_size: said(
                limits.preferred_chunk_size,
                defaults.limits.preferred_chunk_size,
            ),
        },
    }
}
