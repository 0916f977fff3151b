//! What agents say unasked: their own metrics beside ours, and what they wanted to have changed.
//!
//! Two agents may use one name for different things. A reader of metrics takes no name twice, so the first agent in the order
//! of the configuration has it, and what the others say under it is hidden and counted.

use super::AgentLabel;
use portcullis_agent_manager::{AgentStatus, Granted};
use portcullis_agent_protocol::{ConfigChange, Metric, MetricValue};
use portcullis_config::AgentId;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
    metrics::{MetricType, counter::Counter, exemplar::Exemplar, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

/// In front of the names that agents give.
const PREFIX: &str = "agent_reported_";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    agent: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Update {
    agent: String,
    kind: &'static str,
    outcome: &'static str,
}

/// What agents have said.
#[derive(Clone, Default)]
pub(super) struct Reported {
    shown: Arc<Shown>,
    reports: Family<AgentLabel, Counter>,
    series: Family<AgentLabel, Gauge>,
    dropped: Family<Dropped, Counter>,
    hidden: Family<AgentLabel, Gauge>,
    updates: Family<Update, Counter>,
}

impl Reported {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "agent_metrics_reports",
            "Reports of their own metrics that agents have sent",
            self.reports.clone(),
        );
        registry.register(
            "agent_metrics_series",
            "Series of an agent's own metrics that are kept",
            self.series.clone(),
        );
        registry.register(
            "agent_metrics_dropped",
            "Series of an agent's own metrics that were dropped, in each report anew, by agent and reason",
            self.dropped.clone(),
        );
        registry.register(
            "agent_metrics_hidden",
            "Series of an agent's own metrics that are kept and not shown, because another metric has their name",
            self.hidden.clone(),
        );
        registry.register(
            "agent_config_updates",
            "What agents wanted to have changed, by agent, kind and outcome",
            self.updates.clone(),
        );
        registry.register_collector(Box::new(self.shown.clone()));
    }

    /// What the agents report now.
    pub(super) fn show(&self, reported: Vec<(AgentId, Vec<Metric>)>) {
        let (families, hidden) = families(reported);
        *self.shown.lock() = families;
        self.hidden.clear();
        for (agent, series) in hidden {
            self.hidden.get_or_create(&AgentLabel { agent }).set(series);
        }
    }

    pub(super) fn show_status(&self, label: &AgentLabel, status: &AgentStatus) {
        let reported = status.reported;
        if reported.reports == 0 {
            return;
        }
        let store = |counter: &Counter, value| counter.inner().store(value, Relaxed);
        store(&self.reports.get_or_create(label), reported.reports);
        let series = i64::try_from(reported.series).unwrap_or(i64::MAX);
        self.series.get_or_create(label).set(series);
        for (reason, value) in [
            ("limit", reported.over_limit),
            ("invalid", reported.invalid),
        ] {
            let label = Dropped {
                agent: label.agent.clone(),
                reason,
            };
            store(&self.dropped.get_or_create(&label), value);
        }
    }

    pub(super) fn count_update(&self, agent: &str, wanted: &ConfigChange, granted: Granted) {
        let label = Update {
            agent: agent.to_owned(),
            kind: wanted.name(),
            outcome: granted.name(),
        };
        self.updates.get_or_create(&label).inc();
    }

    /// The agent is no longer configured.
    pub(super) fn forget(&self, label: &AgentLabel) {
        self.series.remove(label);
    }
}

/// Metrics of agents as they are shown.
#[derive(Debug, Default)]
struct Shown(Mutex<Vec<ShownFamily>>);

/// All that has one name.
#[derive(Debug)]
struct ShownFamily {
    name: String,
    help: String,
    kind: Kind,
    series: Vec<(Labels, MetricValue)>,
}

type Labels = Vec<(String, String)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn of(value: &MetricValue) -> Self {
        match value {
            MetricValue::Counter(_) => Self::Counter,
            MetricValue::Gauge(_) => Self::Gauge,
            MetricValue::Histogram { .. } => Self::Histogram,
        }
    }

    const fn name(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }

    /// What is put behind the name of a family for its samples. No other family may have such a name.
    const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["", "_total", "_created"],
            Self::Gauge => &[""],
            Self::Histogram => &["", "_bucket", "_sum", "_count", "_created"],
        }
    }
}

/// Puts together what has the same name, and says how many series of which agent have no place.
fn families(reported: Vec<(AgentId, Vec<Metric>)>) -> (Vec<ShownFamily>, BTreeMap<String, i64>) {
    let mut families: BTreeMap<String, ShownFamily> = BTreeMap::new();
    let mut taken = HashSet::new();
    let mut hidden = BTreeMap::new();
    for (agent, metrics) in reported {
        for metric in metrics {
            let kind = Kind::of(&metric.value);
            let name = match kind {
                Kind::Counter => metric.name.strip_suffix("_total").unwrap_or(&metric.name),
                Kind::Gauge | Kind::Histogram => &metric.name,
            };
            let name = format!("{PREFIX}{name}");
            let names = kind.suffixes().iter();
            let names: Vec<_> = names.map(|suffix| format!("{name}{suffix}")).collect();
            let is_free = !names.iter().any(|name| taken.contains(name));
            let labels = std::iter::once(("agent".to_owned(), agent.to_string()));
            let series = (labels.chain(metric.labels).collect(), metric.value);
            match families.get_mut(&name) {
                Some(family) if family.kind == kind => family.series.push(series),
                None if is_free => {
                    taken.extend(names);
                    let family = ShownFamily {
                        help: in_one_line(&metric.help),
                        kind,
                        series: vec![series],
                        name: name.clone(),
                    };
                    families.insert(name, family);
                }
                _ => *hidden.entry(agent.to_string()).or_default() += 1,
            }
        }
    }
    (families.into_values().collect(), hidden)
}

/// The library that writes it leaves it as it is.
fn in_one_line(help: &str) -> String {
    let clean = |c: char| match c {
        c if c.is_control() => ' ',
        '\\' => '/',
        c => c,
    };
    match help.is_empty() {
        true => "Reported by agents".to_owned(),
        false => help.chars().map(clean).collect(),
    }
}

impl Shown {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ShownFamily>> {
        // It is replaced whole, so a poisoned lock loses nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &*self.lock() {
            let (name, kind) = (&family.name, family.kind.name());
            let mut encoder = encoder.encode_descriptor(name, &family.help, None, kind)?;
            for (labels, value) in &family.series {
                let mut encoder = encoder.encode_family(labels)?;
                match value {
                    MetricValue::Counter(value) => {
                        encoder.encode_counter(value, None::<&Exemplar<NoLabelSet, f64>>)?;
                    }
                    MetricValue::Gauge(value) => encoder.encode_gauge(value)?,
                    MetricValue::Histogram {
                        sum,
                        count,
                        buckets,
                    } => {
                        let buckets = apart(buckets, *count);
                        encoder.encode_histogram::<NoLabelSet>(*sum, *count, &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// How many observations each bucket has for itself, the one up to infinity included.
fn apart(buckets: &[(f64, u64)], count: u64) -> Vec<(f64, u64)> {
    let mut before = 0;
    let all = buckets.iter().copied();
    all.chain(std::iter::once((f64::INFINITY, count)))
        .map(|(bound, at_most)| (bound, at_most - std::mem::replace(&mut before, at_most)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, labels: &[(&str, &str)], value: MetricValue) -> Metric {
        let labels = labels.iter();
        Metric {
            name: name.to_owned(),
            help: "One\n# TYPE line".to_owned(),
            labels: labels
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            value,
        }
    }

    fn encoded(reported: &Reported) -> String {
        let mut registry = Registry::with_prefix("portcullis");
        reported.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn metrics_of_agents_stand_beside_ours_with_the_name_of_the_agent() {
        let reported = Reported::default();
        let histogram = MetricValue::Histogram {
            sum: 1.5,
            count: 3,
            buckets: vec![(0.1, 1)],
        };
        reported.show(vec![
            (
                "waf".into(),
                vec![
                    metric("hits_total", &[("k", "a\"b")], MetricValue::Counter(7.0)),
                    metric("took", &[], histogram),
                ],
            ),
            (
                "guard".into(),
                vec![metric("hits", &[], MetricValue::Counter(1.0))],
            ),
        ]);
        let text = encoded(&reported);
        let expected = r#"# HELP portcullis_agent_reported_hits One # TYPE line
# TYPE portcullis_agent_reported_hits counter
portcullis_agent_reported_hits_total{agent="waf",k="a\"b"} 7.0
portcullis_agent_reported_hits_total{agent="guard"} 1.0
# HELP portcullis_agent_reported_took One # TYPE line
# TYPE portcullis_agent_reported_took histogram
portcullis_agent_reported_took_sum{agent="waf"} 1.5
portcullis_agent_reported_took_count{agent="waf"} 3
portcullis_agent_reported_took_bucket{le="0.1",agent="waf"} 1
portcullis_agent_reported_took_bucket{le="+Inf",agent="waf"} 3
"#;
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn no_name_is_there_for_two_things() {
        let reported = Reported::default();
        reported.show(vec![
            (
                "waf".into(),
                vec![metric("hits_total", &[], MetricValue::Counter(1.0))],
            ),
            (
                "guard".into(),
                vec![
                    metric("hits", &[], MetricValue::Gauge(2.0)),
                    metric("hits_total", &[], MetricValue::Gauge(3.0)),
                    metric("free", &[], MetricValue::Gauge(4.0)),
                ],
            ),
        ]);
        let text = encoded(&reported);
        assert!(text.contains(r#"portcullis_agent_metrics_hidden{agent="guard"} 2"#));
        assert!(text.contains(r#"portcullis_agent_reported_free{agent="guard"} 4.0"#));
        assert_eq!(text.matches("# TYPE portcullis_agent_reported").count(), 2);
        reported.show(Vec::new());
        let text = encoded(&reported);
        assert!(!text.contains("agent_reported") && !text.contains("hidden{"));
    }
}
