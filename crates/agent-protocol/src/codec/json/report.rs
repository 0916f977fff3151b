//! Metrics of agents, and what they want changed, in JSON. Whatever is in a
//! message, it is read as far as it can be.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::answer::as_object;
use crate::{ConfigChange, ConfigUpdate, Metric, MetricValue, MetricsReport};

/// Appends the payload of a report of metrics.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn encode_metrics(
    out: &mut Vec<u8>,
    agent_id: &str,
    report: &MetricsReport,
    timestamp_ms: u64,
) -> Result<(), serde_json::Error> {
    let interval = report.interval.unwrap_or_default().as_millis();
    let mut written = WireReport {
        agent_id,
        timestamp_ms,
        interval_ms: u64::try_from(interval).unwrap_or(u64::MAX),
        counters: Vec::new(),
        gauges: Vec::new(),
        histograms: Vec::new(),
    };
    for metric in &report.metrics {
        let with = |value| WireMetric {
            name: &metric.name,
            help: &metric.help,
            labels: &metric.labels,
            value,
        };
        match &metric.value {
            MetricValue::Counter(value) => written.counters.push(with(WireValue::counter(*value))),
            MetricValue::Gauge(value) => {
                written
                    .gauges
                    .push(with(WireValue::Number { value: *value }));
            }
            MetricValue::Histogram {
                sum,
                count,
                buckets,
            } => written.histograms.push(with(WireValue::Histogram {
                sum: *sum,
                count: *count,
                buckets: WireBucket::of(buckets, *count),
            })),
        }
    }
    serde_json::to_writer(out, &written)
}

#[derive(Serialize)]
struct WireReport<'a> {
    agent_id: &'a str,
    timestamp_ms: u64,
    interval_ms: u64,
    counters: Vec<WireMetric<'a>>,
    gauges: Vec<WireMetric<'a>>,
    histograms: Vec<WireMetric<'a>>,
}

#[derive(Serialize)]
struct WireMetric<'a> {
    name: &'a str,
    help: &'a str,
    #[serde(serialize_with = "as_object")]
    labels: &'a [(String, String)],
    #[serde(flatten)]
    value: WireValue,
}

// A number that JSON does not have becomes null.
#[derive(Serialize)]
#[serde(untagged)]
enum WireValue {
    Whole {
        value: u64,
    },
    Number {
        value: f64,
    },
    Histogram {
        sum: f64,
        count: u64,
        buckets: Vec<WireBucket>,
    },
}

impl WireValue {
    // Published proxies read whole numbers here.
    fn counter(value: f64) -> Self {
        match value.fract() == 0.0 && (0.0..=2_f64.powi(53)).contains(&value) {
            true => Self::Whole {
                value: value as u64,
            },
            false => Self::Number { value },
        }
    }
}

#[derive(Serialize)]
struct WireBucket {
    le: WireBound,
    count: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireBound {
    At(f64),
    Infinity(&'static str),
}

impl WireBucket {
    fn of(buckets: &[(f64, u64)], count: u64) -> Vec<Self> {
        let bounds = buckets.iter().map(|(bound, count)| Self {
            le: WireBound::At(*bound),
            count: *count,
        });
        let last = Self {
            le: WireBound::Infinity("+Inf"),
            count,
        };
        bounds.chain(std::iter::once(last)).collect()
    }
}

/// Appends the payload of a wish to have the configuration read again.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn encode_reload_request(
    out: &mut Vec<u8>,
    request_id: &str,
    timestamp_ms: u64,
) -> Result<(), serde_json::Error> {
    let wish = WireReload {
        update_type: WireUpdateType {
            name: ConfigChange::Reload.name(),
        },
        request_id,
        timestamp_ms,
    };
    serde_json::to_writer(out, &wish)
}

#[derive(Serialize)]
struct WireReload<'a> {
    update_type: WireUpdateType,
    request_id: &'a str,
    timestamp_ms: u64,
}

#[derive(Serialize)]
struct WireUpdateType {
    #[serde(rename = "type")]
    name: &'static str,
}

/// Reads a report of metrics.
pub(super) fn metrics(body: &Value) -> MetricsReport {
    let mut report = MetricsReport {
        interval: milliseconds(&body["interval_ms"]),
        ..MetricsReport::default()
    };
    let kinds: [(&str, ReadValue); 3] = [
        ("counters", counter),
        ("gauges", |entry| {
            number(&entry["value"]).map(MetricValue::Gauge)
        }),
        ("histograms", histogram),
    ];
    for (kind, read) in kinds {
        match &body[kind] {
            Value::Array(entries) => {
                for entry in entries {
                    match metric(entry, read) {
                        Some(metric) => report.metrics.push(metric),
                        None => report.unreadable += 1,
                    }
                }
            }
            Value::Null => {}
            _ => report.unreadable += 1,
        }
    }
    report
}

/// Reads what is particular to a kind of metrics.
type ReadValue = fn(&Value) -> Option<MetricValue>;

fn metric(entry: &Value, read: ReadValue) -> Option<Metric> {
    let mut labels: Vec<(String, String)> = match &entry["labels"] {
        Value::Null => Vec::new(),
        // No name is there twice.
        Value::Object(labels) => labels
            .iter()
            .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect::<Option<_>>()?,
        _ => return None,
    };
    labels.sort();
    Some(Metric {
        name: entry["name"].as_str()?.to_owned(),
        help: text(&entry["help"]),
        labels,
        value: read(entry)?,
    })
}

fn counter(entry: &Value) -> Option<MetricValue> {
    let value = number(&entry["value"])?;
    (value.is_finite() && value >= 0.0).then_some(MetricValue::Counter(value))
}

fn histogram(entry: &Value) -> Option<MetricValue> {
    let count = entry["count"].as_u64()?;
    let mut buckets = Vec::new();
    for bucket in entry["buckets"].as_array()? {
        let at_most = bucket["count"].as_u64()?;
        // Infinity is text, or what JSON makes of a number that it does not
        // have.
        match &bucket["le"] {
            Value::Null => continue,
            Value::String(text) if matches!(text.as_str(), "+Inf" | "Inf" | "inf") => continue,
            bound => buckets.push((number(bound)?, at_most)),
        }
    }
    let rises = buckets
        .windows(2)
        .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
    let last = buckets.last().map_or(0, |(_, at_most)| *at_most);
    (rises && last <= count).then_some(MetricValue::Histogram {
        sum: number(&entry["sum"])?,
        count,
        buckets,
    })
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

/// Reads what an agent wants changed.
pub(super) fn config_update(body: &Value) -> ConfigUpdate {
    let wanted = &body["update_type"];
    let name = wanted.as_str().or_else(|| wanted["type"].as_str());
    let entries = |name: &str| wanted[name].as_array().map_or(0, Vec::len);
    let change = match name.unwrap_or_default() {
        "request_reload" => ConfigChange::Reload,
        "rule_update" => ConfigChange::Rules {
            rule_set: text(&wanted["rule_set"]),
            set: entries("rules"),
            removed: entries("remove_rules"),
        },
        "list_update" => ConfigChange::List {
            list_id: text(&wanted["list_id"]),
            added: entries("add"),
            removed: entries("remove"),
        },
        "restart_required" => ConfigChange::Restart {
            reason: text(&wanted["reason"]),
            grace_period: milliseconds(&wanted["grace_period_ms"]),
        },
        "config_error" => ConfigChange::Error {
            error: text(&wanted["error"]),
            field: wanted["field"].as_str().map(str::to_owned),
        },
        other => ConfigChange::Unknown(other.to_owned()),
    };
    ConfigUpdate {
        request_id: text(&body["request_id"]),
        change,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

// Zero says nothing.
fn milliseconds(value: &Value) -> Option<Duration> {
    let milliseconds = value.as_u64().filter(|milliseconds| *milliseconds > 0)?;
    Some(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> MetricsReport {
        metrics(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn what_is_written_is_read() {
        let labels = vec![
            ("a".to_owned(), "1".to_owned()),
            ("k".to_owned(), "v\"".to_owned()),
        ];
        let metric = |name: &str, value| Metric {
            name: name.to_owned(),
            help: "What it is".to_owned(),
            labels: labels.clone(),
            value,
        };
        let report = MetricsReport {
            metrics: vec![
                metric("requests_total", MetricValue::Counter(7.0)),
                metric("seconds_total", MetricValue::Counter(0.25)),
                metric("rules", MetricValue::Gauge(-1.5)),
                metric(
                    "took",
                    MetricValue::Histogram {
                        sum: 1.5,
                        count: 3,
                        buckets: vec![(0.1, 1), (1.0, 2)],
                    },
                ),
            ],
            interval: Some(Duration::from_secs(10)),
            unreadable: 0,
        };
        let mut out = Vec::new();
        encode_metrics(&mut out, "waf", &report, 1).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r#""value":7}"#), "{text}");
        assert_eq!(read(&text), report);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_counted() {
        let report = read(
            r#"{"counters":[{"name":"a","value":1},{"name":"b","value":-1},{"value":1},{"name":"c"},7],
                "gauges":[{"name":"d","value":"1"},{"name":"e","value":1,"labels":{"k":1}},{"name":"f","value":1,"labels":[]}],
                "histograms":{},"interval_ms":0}"#,
        );
        let names: Vec<_> = report.metrics.iter().map(|it| it.name.as_str()).collect();
        assert_eq!((names, report.unreadable), (vec!["a"], 8));
        assert_eq!(report.interval, None);
        assert_eq!(read("{}"), MetricsReport::default());
    }

    #[test]
    fn a_histogram_has_to_be_one() {
        let buckets = |buckets: &str| {
            let entry = format!(r#"{{"name":"h","sum":1.0,"count":3,"buckets":{buckets}}}"#);
            let report = read(&format!(r#"{{"histograms":[{entry}]}}"#));
            report.metrics.into_iter().next().map(|metric| metric.value)
        };
        for infinity in [r#""+Inf""#, "null"] {
            let text = format!(r#"[{{"le":0.1,"count":1}},{{"le":{infinity},"count":3}}]"#);
            let Some(MetricValue::Histogram { buckets, .. }) = buckets(&text) else {
                panic!("{text}");
            };
            assert_eq!(buckets, [(0.1, 1)]);
        }
        for wrong in [
            r#"[{"le":0.1,"count":4}]"#,
            r#"[{"le":0.1,"count":2},{"le":0.2,"count":1}]"#,
            r#"[{"le":0.2,"count":1},{"le":0.1,"count":2}]"#,
            r#"[{"le":"much","count":1}]"#,
            r#"[{"le":0.1}]"#,
            "{}",
        ] {
            assert_eq!(buckets(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_wish_has_its_name_and_its_words() {
        let table = [
            (
                r#"{"type":"request_reload"}"#,
                "request_reload",
                String::new(),
            ),
            (r#""request_reload""#, "request_reload", String::new()),
            (
                r#"{"type":"rule_update","rule_set":"crs","rules":[{},{}],"remove_rules":["1"]}"#,
                "rule_update",
                "rule set crs: 2 rules, 1 removed".to_owned(),
            ),
            (
                r#"{"type":"list_update","list_id":"bad","add":["a"],"remove":[]}"#,
                "list_update",
                "list bad: 1 added, 0 removed".to_owned(),
            ),
            (
                r#"{"type":"restart_required","reason":"new rules","grace_period_ms":1500}"#,
                "restart_required",
                "new rules (within 1.5s)".to_owned(),
            ),
            (
                r#"{"type":"config_error","error":"no such file","field":"rules"}"#,
                "config_error",
                "rules: no such file".to_owned(),
            ),
            (
                r#"{"type":"make_coffee"}"#,
                "unknown",
                "make_coffee".to_owned(),
            ),
            ("7", "unknown", String::new()),
        ];
        for (wanted, name, detail) in table {
            let body = format!(r#"{{"update_type":{wanted},"request_id":"u1"}}"#);
            let update = config_update(&serde_json::from_str(&body).unwrap());
            assert_eq!(update.request_id, "u1");
            assert_eq!(update.change.name(), name, "{wanted}");
            assert_eq!(update.change.detail(), detail, "{wanted}");
        }
        let mut out = Vec::new();
        encode_reload_request(&mut out, "u2", 1).unwrap();
        let update = config_update(&serde_json::from_slice(&out).unwrap());
        assert_eq!(update.request_id, "u2");
        assert_eq!(update.change, ConfigChange::Reload);
    }
}
