//! The messages in docs/protocol.md that are not about events.

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::codec::json;
use portcullis_agent_protocol::{
    ConfigChange, ConfigUpdate, ControlMessage, FlowAction, HealthState, Metric, MetricValue,
    MetricsReport,
};

const AT_MS: u64 = 1_700_000_000_000;

/// All of them, as they are written.
pub(crate) fn written() -> Vec<(&'static str, Vec<u8>)> {
    let mut ping = Vec::new();
    json::encode_ping(&mut ping, 1, AT_MS);
    let mut health = Vec::new();
    json::encode_health(&mut health, "waf", HealthState::Draining, AT_MS);
    let mut flow = Vec::new();
    json::encode_flow(&mut flow, FlowAction::Pause, AT_MS);
    let mut purge = Vec::new();
    json::encode_purge(&mut purge, "waf", AT_MS);
    let mut metrics = Vec::new();
    json::encode_metrics(&mut metrics, "waf", &report(), AT_MS).unwrap();
    let mut reload = Vec::new();
    json::encode_reload_request(&mut reload, "waf-17-1", AT_MS).unwrap();
    vec![
        ("ping", ping),
        ("health", health),
        ("flow-control", flow),
        ("verdict-purge", purge),
        ("metrics-report", metrics),
        ("config-update-request", reload),
    ]
}

fn report() -> MetricsReport {
    let metric = |name: &str, help: &str, labels: &[(&str, &str)], value| Metric {
        name: name.to_owned(),
        help: help.to_owned(),
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        value,
    };
    let hits = MetricValue::Counter(7.0);
    let took = MetricValue::Histogram {
        sum: 1.5,
        count: 3,
        buckets: vec![(0.1, 1)],
    };
    MetricsReport {
        metrics: vec![
            metric(
                "hits_total",
                "Rules that matched",
                &[("rule", "942100")],
                hits,
            ),
            metric("rules", "", &[], MetricValue::Gauge(2.5)),
            metric("took_seconds", "", &[], took),
        ],
        interval: Some(Duration::from_secs(10)),
        unreadable: 0,
    }
}

/// They mean what they were written for.
pub(crate) fn check(page: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(json::decode_ping(&page["ping"]), Ok((1, AT_MS)));
    let update = ConfigUpdate {
        request_id: "waf-17-1".to_owned(),
        change: ConfigChange::Reload,
    };
    for (kind, name, expected) in [
        (
            MessageType::Pong,
            "ping",
            ControlMessage::Pong { sequence: 1 },
        ),
        (
            MessageType::HealthStatus,
            "health",
            ControlMessage::Health(HealthState::Draining),
        ),
        (
            MessageType::FlowControl,
            "flow-control",
            ControlMessage::FlowControl(FlowAction::Pause),
        ),
        (
            MessageType::VerdictPurge,
            "verdict-purge",
            ControlMessage::PurgeVerdicts,
        ),
        (
            MessageType::MetricsReport,
            "metrics-report",
            ControlMessage::Metrics(report()),
        ),
        (
            MessageType::ConfigUpdateRequest,
            "config-update-request",
            ControlMessage::ConfigUpdate(update),
        ),
    ] {
        let decoded = json::decode_control(kind, &page[name]);
        assert_eq!(decoded, Ok(expected), "{name}");
    }
}
