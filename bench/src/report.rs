//! From rounds to figures, and from figures to a table and a file.

use crate::{
    roles::load::LoadReport,
    scenario::{Comparison, Kind, Scenario},
    stage::Load,
    statistics::{Estimate, median},
};
use serde::Serialize;
use std::{
    fmt::{self, Write},
    fs, thread,
};

/// The rounds of one scenario.
pub(crate) struct Series {
    pub(crate) scenario: &'static Scenario,
    pub(crate) rounds: Vec<LoadReport>,
}

/// All of a run, as it is written to the file.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    options: Options,
    pub(crate) scenarios: Vec<Figures>,
}

/// Where it was measured.
#[derive(Serialize)]
pub(crate) struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    /// The load average of the last minute before the first round; near 0 on a machine that is fit for measuring.
    pub(crate) load_before: f64,
}

#[derive(Serialize)]
struct Options {
    rounds: usize,
    seconds: f64,
    warmup: f64,
    connections: usize,
    rate: Option<f64>,
    size: usize,
}

/// The figures of one scenario.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    about: &'static str,
    /// CPU time per request of the proxy process, in microseconds.
    cpu_us: Estimate,
    /// CPU time per request of all its agents together, in microseconds; the median of the rounds, as all below.
    agents_cpu_us: f64,
    context_switches: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Resident memory of the proxy after the last round.
    rss_bytes: u64,
    /// Of all rounds together.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    comparisons: Vec<Compared>,
    rounds: Vec<LoadReport>,
}

#[derive(Serialize)]
struct Compared {
    base: &'static str,
    kind: Kind,
    estimate: Estimate,
    at_most: Option<f64>,
    /// None without a bar, and with too few pairs for an interval that deserves the name.
    met: Option<bool>,
}

impl Report {
    /// Computes the figures. None if a scenario has no rounds.
    pub(crate) fn of(series: Vec<Series>, load: &Load, machine: Machine) -> Option<Self> {
        let costs: Vec<(&str, Vec<f64>)> = series
            .iter()
            .map(|one| (one.scenario.name, one.rounds.iter().map(cpu_us).collect()))
            .collect();
        let rounds = series.first()?.rounds.len();
        let scenarios = series
            .into_iter()
            .map(|one| Figures::of(one, &costs))
            .collect::<Option<_>>()?;
        Some(Self {
            machine,
            options: Options {
                rounds,
                seconds: load.seconds,
                warmup: load.warmup,
                connections: load.connections,
                rate: load.rate,
                size: load.size,
            },
            scenarios,
        })
    }
}

impl Figures {
    fn of(series: Series, costs: &[(&str, Vec<f64>)]) -> Option<Self> {
        let Series { scenario, rounds } = series;
        let of_rounds = |figure: fn(&LoadReport) -> f64| -> f64 {
            median(&rounds.iter().map(figure).collect::<Vec<_>>())
        };
        let cost = |name: &str| {
            let found = costs.iter().find(|(other, _)| *other == name);
            found.map(|(_, costs)| costs.as_slice())
        };
        let own = cost(scenario.name)?;
        let comparisons = scenario
            .comparisons
            .iter()
            .filter_map(|comparison| compare(comparison, own, cost))
            .collect();
        Some(Self {
            name: scenario.name,
            about: scenario.about,
            cpu_us: Estimate::of(own)?,
            agents_cpu_us: of_rounds(agents_cpu_us),
            context_switches: of_rounds(context_switches),
            requests_per_second: of_rounds(|round| round.requests as f64 / round.seconds),
            p50_us: of_rounds(|round| round.latency.p50_us),
            p99_us: of_rounds(|round| round.latency.p99_us),
            rss_bytes: rounds.last()?.usage.first()?.rss_bytes,
            errors: rounds.iter().map(|round| round.errors).sum(),
            first_error: rounds.iter().find_map(|round| round.first_error.clone()),
            comparisons,
            rounds,
        })
    }
}

fn compare<'a>(
    comparison: &Comparison,
    own: &[f64],
    cost: impl Fn(&str) -> Option<&'a [f64]>,
) -> Option<Compared> {
    let pairs = own.iter().zip(cost(comparison.base)?);
    let values: Vec<f64> = match comparison.kind {
        Kind::Ratio => pairs.map(|(own, base)| own / base).collect(),
        Kind::DifferenceUs => pairs.map(|(own, base)| own - base).collect(),
        Kind::MoreThanUs { other, other_base } => {
            let others = cost(other)?.iter().zip(cost(other_base)?);
            let pairs = pairs.zip(others);
            pairs
                .map(|((own, base), (other, other_base))| (own - base) - (other - other_base))
                .collect()
        }
    };
    let estimate = Estimate::of(&values)?;
    Some(Compared {
        base: comparison.base,
        kind: comparison.kind,
        estimate,
        at_most: comparison.at_most,
        met: comparison
            .at_most
            .filter(|_| estimate.coverage >= Estimate::CONFIDENCE)
            .map(|bar| estimate.high <= bar),
    })
}

/// CPU time of the proxy per request in microseconds.
pub(crate) fn cpu_us(round: &LoadReport) -> f64 {
    per_request(round, round.usage.first().map_or(0, |usage| usage.cpu_ns)) / 1_000.0
}

fn agents_cpu_us(round: &LoadReport) -> f64 {
    let agents = round.usage.iter().skip(1);
    per_request(round, agents.map(|usage| usage.cpu_ns).sum()) / 1_000.0
}

fn context_switches(round: &LoadReport) -> f64 {
    let proxy = round.usage.first();
    per_request(round, proxy.map_or(0, |usage| usage.context_switches))
}

fn per_request(round: &LoadReport, amount: u64) -> f64 {
    amount as f64 / round.requests as f64
}

impl Machine {
    /// This one, now.
    pub(crate) fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                Some(
                    line.strip_prefix("model name")?
                        .split_once(": ")?
                        .1
                        .to_owned(),
                )
            })
            .unwrap_or_else(|| "unknown".to_owned());
        let load_before = read("/proc/loadavg")
            .split(' ')
            .next()
            .and_then(|field| field.parse().ok())
            .unwrap_or(0.0);
        Self {
            processor,
            processors: thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            rounds,
            seconds,
            connections,
            size,
            rate,
            ..
        } = &self.options;
        let loop_kind = rate.map_or("closed loop".to_owned(), |rate| {
            format!("{rate} requests/s")
        });
        writeln!(
            f,
            "\n{}, {} processors, Linux {}\n{rounds} rounds of {seconds} s, {connections} connections, {size} bytes, {loop_kind}\n",
            self.machine.processor, self.machine.processors, self.machine.kernel
        )?;
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        rows.extend(self.scenarios.iter().map(Figures::row));
        write_table(f, &rows)?;
        writeln!(f)?;
        for figures in &self.scenarios {
            for compared in &figures.comparisons {
                writeln!(f, "{}", compared.line(figures.name))?;
            }
        }
        writeln!(
            f,
            "\nCPU us: time on a processor per request, of the proxy process and of its agents, median of the rounds.\n\
             Intervals: order statistics of the median over {rounds} interleaved pairs, {} each; at least 95 % from 6 pairs on.",
            self.scenarios.first().map_or(String::new(), |figures| {
                format!("{:.1} %", figures.cpu_us.coverage * 100.0)
            })
        )
    }
}

const HEADINGS: [&str; 10] = [
    "scenario", "CPU us", "interval", "agents", "req/s", "p50 us", "p99 us", "switches", "RSS MiB",
    "errors",
];

impl Figures {
    fn row(&self) -> [String; HEADINGS.len()] {
        [
            self.name.to_owned(),
            format!("{:.2}", self.cpu_us.median),
            format!("{:.2} .. {:.2}", self.cpu_us.low, self.cpu_us.high),
            format!("{:.2}", self.agents_cpu_us),
            format!("{:.0}", self.requests_per_second),
            format!("{:.0}", self.p50_us),
            format!("{:.0}", self.p99_us),
            format!("{:.3}", self.context_switches),
            format!("{:.1}", self.rss_bytes as f64 / 1024.0 / 1024.0),
            self.errors.to_string(),
        ]
    }
}

impl Compared {
    fn line(&self, name: &str) -> String {
        let Estimate {
            median, low, high, ..
        } = self.estimate;
        let base = self.base;
        let mut line = match self.kind {
            Kind::Ratio => format!("{name} = {median:.3} x {base}  [{low:.3}, {high:.3}]"),
            Kind::DifferenceUs => {
                format!("{name} = {base} {median:+.2} us  [{low:+.2}, {high:+.2}]")
            }
            Kind::MoreThanUs { other, other_base } => format!(
                "{name} over {base} = {other} over {other_base} {median:+.2} us  [{low:+.2}, {high:+.2}]"
            ),
        };
        if let Some(bar) = self.at_most {
            let verdict = match self.met {
                Some(true) => "met",
                Some(false) => "NOT met",
                None => "too few pairs to tell",
            };
            let _ = write!(line, "  bar: at most {bar}: {verdict}");
        }
        line
    }
}

/// The first column to the left, all others to the right.
fn write_table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column == 0 {
                write!(f, "{cell:<width$}")?;
            } else {
                write!(f, "  {cell:>width$}")?;
            }
        }
        writeln!(f)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scenario::choose, statistics::Latency, usage::Usage};

    fn round(cpu_us: f64) -> LoadReport {
        let usage = |cpu_ns| Usage {
            pid: 1,
            cpu_ns,
            context_switches: 500,
            rss_bytes: 1 << 20,
        };
        LoadReport {
            seconds: 2.0,
            requests: 1_000,
            statuses: [(200, 1_000)].into(),
            errors: 0,
            first_error: None,
            latency: Latency::default(),
            usage: vec![usage((cpu_us * 1e6) as u64), usage(3_000_000)],
        }
    }

    fn report(series: &[(&str, &[f64])]) -> Report {
        let series = series
            .iter()
            .map(|(name, costs)| Series {
                scenario: choose(&[(*name).to_owned()]).unwrap()[0],
                rounds: costs.iter().map(|cost| round(*cost)).collect(),
            })
            .collect();
        let load = Load {
            connections: 32,
            seconds: 2.0,
            warmup: 0.5,
            rate: None,
            size: 1024,
        };
        Report::of(series, &load, Machine::look()).unwrap()
    }

    #[test]
    fn figures_are_per_request() {
        let report = report(&[("plain", &[20.0])]);
        let figures = &report.scenarios[0];
        assert_eq!(figures.cpu_us.median, 20.0);
        assert_eq!(figures.agents_cpu_us, 3.0);
        assert_eq!(figures.context_switches, 0.5);
        assert_eq!(figures.requests_per_second, 500.0);
    }

    #[test]
    fn a_bar_is_met_when_the_upper_end_is_at_most_the_bar() {
        let floor: &[f64] = &[20.0; 10];
        for (last_two, met) in [
            ([22.5, 30.0], true),
            ([23.5, 30.0], false),
            ([23.0, 23.0], true),
        ] {
            let mut plain = vec![22.0; 8];
            plain.extend(last_two);
            let report = report(&[("floor", floor), ("plain", &plain)]);
            let compared = &report.scenarios[1].comparisons[0];
            assert_eq!(compared.estimate.median, 1.1);
            assert_eq!(compared.met, Some(met), "{last_two:?}");
            let verdict = if met { ": met" } else { ": NOT met" };
            assert!(report.to_string().contains(verdict), "{report}");
        }
    }

    #[test]
    fn too_few_pairs_do_not_meet_a_bar() {
        let report = report(&[("floor", &[20.0; 5]), ("plain", &[20.0; 5])]);
        assert_eq!(report.scenarios[1].comparisons[0].met, None);
        assert!(report.to_string().contains("too few pairs"), "{report}");
    }

    #[test]
    fn pairs_are_of_the_same_round() {
        let report = report(&[
            ("plain", &[10.0, 20.0, 30.0]),
            ("agent", &[12.0, 23.0, 31.0]),
        ]);
        let compared = &report.scenarios[1].comparisons[0];
        assert_eq!(compared.kind, Kind::DifferenceUs);
        assert_eq!(compared.estimate.median, 2.0);
        assert_eq!((compared.estimate.low, compared.estimate.high), (1.0, 3.0));
    }

    #[test]
    fn a_comparison_without_its_base_is_left_out() {
        let report = report(&[("agent", &[12.0])]);
        assert!(report.scenarios[0].comparisons.is_empty());
    }
}
