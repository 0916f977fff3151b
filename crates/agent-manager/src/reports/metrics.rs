//! The metrics that an agent reports, as they were reported last.

use super::ReportedStatus;
use portcullis_agent_protocol::{Metric, MetricValue, MetricsReport};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What is reported in other forms than these is dropped, so that nobody who reads our metrics stumbles over it.
const LONGEST_NAME_BYTES: usize = 128;
const MOST_LABELS: usize = 8;
const LONGEST_LABEL_BYTES: usize = 64;
const LONGEST_VALUE_BYTES: usize = 128;
const MOST_BUCKETS: usize = 64;
/// More of what a metric means is cut off.
const LONGEST_HELP_BYTES: usize = 256;

/// What was not reported for so long is no longer shown; for three times the pause between two reports if the agent says how
/// long that is, within these bounds.
const LASTS: Duration = Duration::from_secs(5 * 60);
const LASTS_LEAST: Duration = Duration::from_secs(60);
const LASTS_MOST: Duration = Duration::from_secs(60 * 60);

/// What a metric is known by.
type Key = (String, Vec<(String, String)>);

pub(super) struct Reported {
    most: usize,
    kept: BTreeMap<Key, Kept>,
    status: ReportedStatus,
}

struct Kept {
    metric: Metric,
    until: Instant,
}

impl Reported {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            kept: BTreeMap::new(),
            status: ReportedStatus::default(),
        }
    }

    /// Keeps what a report says. Returns what is the matter with the first that is dropped, when that has not been said before.
    pub(super) fn take(&mut self, report: &MetricsReport, now: Instant) -> Option<String> {
        let is_news = self.status.invalid == 0 && self.status.over_limit == 0;
        self.status.reports += 1;
        self.status.invalid += report.unreadable;
        let mut first =
            (report.unreadable > 0).then(|| "some entries of a report cannot be read".to_owned());
        let lasts = report.interval.map_or(LASTS, |interval| {
            interval.saturating_mul(3).clamp(LASTS_LEAST, LASTS_MOST)
        });
        self.drop_stale(now);
        for metric in &report.metrics {
            let problem = match problem(metric) {
                Some(problem) => {
                    self.status.invalid += 1;
                    Some(problem)
                }
                None => self.keep(metric, now + lasts),
            };
            first = first.or(problem);
        }
        first.filter(|_| is_news)
    }

    fn keep(&mut self, metric: &Metric, until: Instant) -> Option<String> {
        let key = (metric.name.clone(), metric.labels.clone());
        let before = self.kept.get(&key).map_or(0, |kept| series(&kept.metric));
        let together = self.status.series - before + series(metric);
        if together > self.most {
            self.status.over_limit += 1;
            let most = self.most;
            return Some(format!("there are more than {most} series"));
        }
        self.status.series = together;
        let help = super::cut(&metric.help, LONGEST_HELP_BYTES).to_owned();
        let metric = Metric {
            help,
            ..metric.clone()
        };
        self.kept.insert(key, Kept { metric, until });
        None
    }

    fn drop_stale(&mut self, now: Instant) {
        let series_left = &mut self.status.series;
        self.kept.retain(|_, kept| {
            let holds = now < kept.until;
            if !holds {
                *series_left -= series(&kept.metric);
            }
            holds
        });
    }

    /// What holds now, by name.
    pub(super) fn now(&mut self, now: Instant) -> Vec<Metric> {
        self.drop_stale(now);
        self.kept.values().map(|kept| kept.metric.clone()).collect()
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.status.series = 0;
    }

    pub(super) const fn status(&self) -> ReportedStatus {
        self.status
    }
}

/// What it takes up where it is shown.
fn series(metric: &Metric) -> usize {
    match &metric.value {
        MetricValue::Counter(_) | MetricValue::Gauge(_) => 1,
        // The bound at infinity, the sum and the count.
        MetricValue::Histogram { buckets, .. } => buckets.len() + 3,
    }
}

/// Why a metric cannot be shown.
fn problem(metric: &Metric) -> Option<String> {
    let name = &metric.name;
    if !is_name(name, LONGEST_NAME_BYTES) {
        let shown = super::shortened(name);
        return Some(format!("{shown:?} is not the name of a metric"));
    }
    if metric.labels.len() > MOST_LABELS {
        return Some(format!("{name} has more than {MOST_LABELS} labels"));
    }
    for (label, value) in &metric.labels {
        // The first is ours, the second that of buckets.
        let is_taken = ["agent", "le"].contains(&label.as_str()) || label.starts_with("__");
        if is_taken || !is_name(label, LONGEST_LABEL_BYTES) {
            let shown = super::shortened(label);
            return Some(format!("{name} has a label {shown:?}, which is none"));
        }
        if value.len() > LONGEST_VALUE_BYTES {
            return Some(format!("{name} has a long value of its label {label}"));
        }
    }
    match &metric.value {
        MetricValue::Histogram { buckets, .. } if buckets.len() > MOST_BUCKETS => {
            Some(format!("{name} has more than {MOST_BUCKETS} buckets"))
        }
        _ => None,
    }
}

fn is_name(text: &str, most: usize) -> bool {
    let starts_well = !text.starts_with(|c: char| c.is_ascii_digit());
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.len() <= most && starts_well && text.bytes().all(is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(name: &str, labels: &[(&str, &str)], value: f64) -> Metric {
        let labels = labels.iter();
        Metric {
            name: name.to_owned(),
            help: String::new(),
            labels: labels
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            value: MetricValue::Gauge(value),
        }
    }

    fn report(metrics: Vec<Metric>) -> MetricsReport {
        MetricsReport {
            metrics,
            ..MetricsReport::default()
        }
    }

    #[test]
    fn the_last_report_holds_and_new_series_find_no_room() {
        let now = Instant::now();
        let mut reported = Reported::new(2);
        let two = report(vec![
            gauge("a", &[("k", "1")], 1.0),
            gauge("a", &[("k", "2")], 1.0),
        ]);
        assert_eq!(reported.take(&two, now), None);
        let news = reported.take(&report(vec![gauge("b", &[], 1.0)]), now);
        assert_eq!(news, Some("there are more than 2 series".to_owned()));
        // Those that are known are still brought up to date, and nothing is said twice.
        let more = report(vec![gauge("c", &[], 1.0), gauge("a", &[("k", "2")], 7.0)]);
        assert_eq!(reported.take(&more, now), None);
        let values: Vec<_> = reported.now(now).into_iter().map(|it| it.value).collect();
        assert_eq!(values, [MetricValue::Gauge(1.0), MetricValue::Gauge(7.0)]);
        let status = ReportedStatus {
            series: 2,
            reports: 3,
            over_limit: 2,
            invalid: 0,
        };
        assert_eq!(reported.status(), status);
    }

    #[test]
    fn a_histogram_takes_the_room_of_its_buckets() {
        let now = Instant::now();
        let histogram = |buckets: usize| Metric {
            value: MetricValue::Histogram {
                sum: 0.0,
                count: 0,
                buckets: (0..buckets).map(|bound| (bound as f64, 0)).collect(),
            },
            ..gauge("h", &[], 0.0)
        };
        let mut reported = Reported::new(5);
        assert_eq!(reported.take(&report(vec![histogram(2)]), now), None);
        assert_eq!(reported.status().series, 5);
        assert!(reported.take(&report(vec![histogram(3)]), now).is_some());
        assert_eq!(reported.take(&report(vec![histogram(1)]), now), None);
        assert_eq!(reported.status().series, 4);
        let mut roomy = Reported::new(1000);
        assert!(roomy.take(&report(vec![histogram(65)]), now).is_some());
        assert_eq!(roomy.status().invalid, 1);
    }

    #[test]
    fn what_is_not_reported_any_longer_goes() {
        let start = Instant::now();
        let mut reported = Reported::new(2);
        let mut often = report(vec![gauge("often", &[], 1.0)]);
        often.interval = Some(Duration::from_secs(1));
        reported.take(&often, start);
        reported.take(&report(vec![gauge("at_times", &[], 1.0)]), start);
        let names = |reported: &mut Reported, after| {
            let metrics = reported.now(start + after);
            metrics.into_iter().map(|it| it.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&mut reported, LASTS_LEAST), ["at_times"]);
        assert_eq!(reported.status().series, 1);
        assert!(names(&mut reported, LASTS).is_empty());
        reported.take(&often, start);
        reported.clear();
        assert!(names(&mut reported, Duration::ZERO).is_empty());
        assert_eq!(reported.status().series, 0);
    }

    #[test]
    fn what_would_break_our_metrics_is_dropped() {
        let long = "x".repeat(129);
        let table = [
            (gauge("a_B9", &[("k", "\"\n")], 1.0), true),
            (gauge("", &[], 1.0), false),
            (gauge("9a", &[], 1.0), false),
            (gauge("a b", &[], 1.0), false),
            (gauge("a:b", &[], 1.0), false),
            (gauge("ä", &[], 1.0), false),
            (gauge(&long, &[], 1.0), false),
            (gauge("a", &[("agent", "waf")], 1.0), false),
            (gauge("a", &[("le", "1")], 1.0), false),
            (gauge("a", &[("__name__", "b")], 1.0), false),
            (gauge("a", &[("k-l", "b")], 1.0), false),
            (gauge("a", &[("k", &long)], 1.0), false),
            (gauge("a", &[("k", "v"); 9], 1.0), false),
        ];
        for (metric, good) in table {
            assert_eq!(problem(&metric).is_none(), good, "{metric:?}");
        }
        let mut reported = Reported::new(9);
        let mut bad = report(vec![gauge("", &[], 1.0)]);
        bad.unreadable = 2;
        let news = reported.take(&bad, Instant::now());
        assert_eq!(
            news.as_deref(),
            Some("some entries of a report cannot be read")
        );
        assert_eq!(reported.status().invalid, 3);
    }
}
