//! Control messages in protobuf. They are rare, and the JSON of a Unix socket
//! is the one form in which this library knows them: here they are brought
//! from it and into it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::messages::{
    ConfigUpdate, ConfigUpdateRequest, CounterMetric, FlowControlSignal, FromAgent, GaugeMetric,
    HealthStatus, HistogramBucket, HistogramMetric, LogMessage, MetricsReport, Pong, RequestReload,
    VerdictPurge,
};
use crate::codec::frame::MessageType;

/// A control message of an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// One that there is in JSON too: its type and its payload.
    Json(MessageType, Vec<u8>),
    /// An entry for the proxy's log, which a Unix socket has no message for.
    Log(LogMessage),
    /// The answer to an event, or to the handshake, which is no control
    /// message.
    Other,
}

/// Brings a message of an agent into JSON.
#[must_use]
pub fn decode_control(message: FromAgent) -> Control {
    use MessageType as Type;
    let (kind, body) = match message {
        FromAgent::Handshake(_) | FromAgent::Response(_) => return Control::Other,
        FromAgent::Log(entry) => return Control::Log(entry),
        FromAgent::Health(it) => (
            Type::HealthStatus,
            json!({"agent_id": it.agent_id, "state": it.state, "message": it.message,
                "timestamp_ms": it.timestamp_ms}),
        ),
        FromAgent::FlowControl(it) => (
            Type::FlowControl,
            json!({"correlation_id": it.correlation_id, "action": it.action,
                "timestamp_ms": it.timestamp_ms}),
        ),
        FromAgent::Pong(it) => (
            Type::Pong,
            json!({"sequence": it.sequence, "timestamp_ms": it.timestamp_ms}),
        ),
        FromAgent::VerdictPurge(it) => (
            Type::VerdictPurge,
            json!({"agent_id": it.agent_id, "timestamp_ms": it.timestamp_ms}),
        ),
        FromAgent::Metrics(it) => (Type::MetricsReport, metrics(it)),
        FromAgent::ConfigUpdate(it) => (Type::ConfigUpdateRequest, config_update(it)),
    };
    Control::Json(kind, body.to_string().into_bytes())
}

fn metrics(report: MetricsReport) -> Value {
    let counters = report.counters.into_iter().map(
        |it| json!({"name": it.name, "help": it.help, "labels": it.labels, "value": it.value}),
    );
    let gauges = report.gauges.into_iter().map(
        |it| json!({"name": it.name, "help": it.help, "labels": it.labels, "value": it.value}),
    );
    let histograms = report.histograms.into_iter().map(|it| {
        let buckets = it.buckets.iter().map(|bucket| match bucket.le.is_finite() {
            true => json!({"le": bucket.le, "count": bucket.count}),
            false => json!({"le": "+Inf", "count": bucket.count}),
        });
        let buckets: Vec<_> = buckets.collect();
        json!({"name": it.name, "help": it.help, "labels": it.labels, "sum": it.sum,
            "count": it.count, "buckets": buckets})
    });
    json!({
        "agent_id": report.agent_id,
        "timestamp_ms": report.timestamp_ms,
        "interval_ms": report.interval_ms,
        "counters": counters.collect::<Vec<_>>(),
        "gauges": gauges.collect::<Vec<_>>(),
        "histograms": histograms.collect::<Vec<_>>(),
    })
}

fn config_update(request: ConfigUpdateRequest) -> Value {
    let update = match request.update_type {
        None => Value::Null,
        Some(ConfigUpdate::RequestReload(_)) => json!({"type": "request_reload"}),
        Some(ConfigUpdate::RuleUpdate(it)) => {
            let rules: Vec<_> = it.rules.iter().map(|rule| json!({"id": rule.id})).collect();
            json!({"type": "rule_update", "rule_set": it.rule_set, "rules": rules,
                "remove_rules": it.remove_rules})
        }
        Some(ConfigUpdate::ListUpdate(it)) => json!({"type": "list_update",
            "list_id": it.list_id, "add": it.add, "remove": it.remove}),
        Some(ConfigUpdate::RestartRequired(it)) => json!({"type": "restart_required",
            "reason": it.reason, "grace_period_ms": it.grace_period_ms}),
        Some(ConfigUpdate::ConfigError(it)) => json!({"type": "config_error",
            "error": it.error, "field": it.field}),
    };
    json!({"update_type": update, "request_id": request.request_id,
        "timestamp_ms": request.timestamp_ms})
}

/// Brings a control message from JSON.
///
/// # Errors
/// When it is not one that an agent of this library sends.
pub fn encode_control(kind: MessageType, payload: &[u8]) -> Result<FromAgent, serde_json::Error> {
    Ok(match kind {
        MessageType::HealthStatus => {
            let wire: WireHealth = serde_json::from_slice(payload)?;
            FromAgent::Health(HealthStatus {
                agent_id: wire.agent_id,
                state: wire.state,
                message: None,
                timestamp_ms: wire.timestamp_ms,
            })
        }
        MessageType::FlowControl => {
            let wire: WireFlow = serde_json::from_slice(payload)?;
            FromAgent::FlowControl(FlowControlSignal {
                correlation_id: None,
                action: wire.action,
                buffer_available: None,
                timestamp_ms: wire.timestamp_ms,
            })
        }
        MessageType::Pong => {
            let wire: WirePong = serde_json::from_slice(payload)?;
            FromAgent::Pong(Pong {
                sequence: wire.sequence,
                ping_timestamp_ms: wire.timestamp_ms,
                timestamp_ms: wire.timestamp_ms,
            })
        }
        MessageType::VerdictPurge => {
            let wire: WirePurge = serde_json::from_slice(payload)?;
            FromAgent::VerdictPurge(VerdictPurge {
                agent_id: wire.agent_id,
                timestamp_ms: wire.timestamp_ms,
            })
        }
        MessageType::MetricsReport => {
            FromAgent::Metrics(serde_json::from_slice::<WireReport>(payload)?.into())
        }
        MessageType::ConfigUpdateRequest => {
            let wire: WireUpdate = serde_json::from_slice(payload)?;
            // Agents of this library ask for nothing else.
            FromAgent::ConfigUpdate(ConfigUpdateRequest {
                request_id: wire.request_id,
                timestamp_ms: wire.timestamp_ms,
                update_type: Some(ConfigUpdate::RequestReload(RequestReload {})),
            })
        }
        kind => {
            let text = format!("{kind:?} is not a control message");
            return Err(serde::de::Error::custom(text));
        }
    })
}

#[derive(Deserialize)]
struct WireHealth {
    agent_id: String,
    state: i32,
    timestamp_ms: u64,
}

#[derive(Deserialize)]
struct WireFlow {
    action: i32,
    timestamp_ms: u64,
}

#[derive(Deserialize)]
struct WirePong {
    sequence: u64,
    timestamp_ms: u64,
}

#[derive(Deserialize)]
struct WirePurge {
    agent_id: String,
    timestamp_ms: u64,
}

#[derive(Deserialize)]
struct WireUpdate {
    request_id: String,
    timestamp_ms: u64,
}

#[derive(Deserialize)]
struct WireReport {
    agent_id: String,
    timestamp_ms: u64,
    interval_ms: u64,
    counters: Vec<WireMetric>,
    gauges: Vec<WireMetric>,
    histograms: Vec<WireHistogram>,
}

// A number that JSON does not have is null.
#[derive(Deserialize)]
struct WireMetric {
    name: String,
    #[serde(default)]
    help: Option<String>,
    labels: BTreeMap<String, String>,
    value: Option<f64>,
}

#[derive(Deserialize)]
struct WireHistogram {
    name: String,
    #[serde(default)]
    help: Option<String>,
    labels: BTreeMap<String, String>,
    sum: Option<f64>,
    count: u64,
    buckets: Vec<WireBucket>,
}

// What is not a number is `+Inf`.
#[derive(Deserialize)]
struct WireBucket {
    le: Value,
    count: u64,
}

impl From<WireReport> for MetricsReport {
    fn from(wire: WireReport) -> Self {
        let counter = |it: WireMetric| CounterMetric {
            name: it.name,
            help: it.help,
            labels: it.labels,
            // Published proxies read whole numbers here.
            value: it.value.unwrap_or_default() as u64,
        };
        let gauge = |it: WireMetric| GaugeMetric {
            name: it.name,
            help: it.help,
            labels: it.labels,
            value: it.value.unwrap_or(f64::NAN),
        };
        let bucket = |it: WireBucket| HistogramBucket {
            le: it.le.as_f64().unwrap_or(f64::INFINITY),
            count: it.count,
        };
        let histogram = |it: WireHistogram| HistogramMetric {
            name: it.name,
            help: it.help,
            labels: it.labels,
            sum: it.sum.unwrap_or(f64::NAN),
            count: it.count,
            buckets: it.buckets.into_iter().map(bucket).collect(),
        };
        Self {
            agent_id: wire.agent_id,
            timestamp_ms: wire.timestamp_ms,
            interval_ms: wire.interval_ms,
            counters: wire.counters.into_iter().map(counter).collect(),
            gauges: wire.gauges.into_iter().map(gauge).collect(),
            histograms: wire.histograms.into_iter().map(histogram).collect(),
        }
    }
}
