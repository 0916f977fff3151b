//! `portcullis agent bench`: how fast an agent answers. Each of so many lanes asks, waits for the answer and asks again.

use super::{
    block_on, complain, config_file, phase, phase_of,
    sample::{Sample, SampleArgs},
    say,
    table::table,
    target::Target,
};
use bytes::Bytes;
use clap::Args;
use futures::future::join_all;
use portcullis_agent_protocol::{
    AnyConnection, CallError, CallGuard, ConnectError, ConnectOptions, Event, EventKind, Extensions,
};
use portcullis_config::parse_duration;
use rand::RngExt;
use serde_json::json;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

/// More times than these are drawn from.
const MOST_TIMES: usize = 1 << 20;

/// Which agent, and how much is asked.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct BenchArgs {
    #[command(flatten)]
    target: Target,
    /// Measure this phase alone; may be given several times. Default: all that the agent has announced
    #[arg(long = "phase", value_name = "PHASE", value_parser = phase)]
    phases: Vec<EventKind>,
    /// Connections, as a worker of the proxy has one or more
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Questions under way at once on each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How long each phase is measured
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    duration: Duration,
    /// Bytes of a piece of a body and of a frame, at most 8388608
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=8 << 20))]
    bytes: u32,
    /// A JSON file with the agent's configuration; without it the agent is given none
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    sample: SampleArgs,
    /// For one answer, and for a connection
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
    /// Speak plain protocol version 2 in JSON, without extensions
    #[arg(long)]
    legacy: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
enum NotMeasured {
    #[error("{0}")]
    Config(String),
    #[error("not asked: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("{0}: {1}")]
    Connect(Target, ConnectError),
    #[error("{0}: the agent has announced none of these phases")]
    NoPhase(Target),
}

pub(super) fn bench(args: &BenchArgs) -> ExitCode {
    let results = match measure(args) {
        Ok(results) => results,
        Err(reason) => {
            complain(&reason);
            return match reason {
                NotMeasured::Config(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            };
        }
    };
    say(&match args.json {
        true => as_json(args, &results),
        false => as_text(&results),
    });
    match results.iter().all(|result| result.failures.is_empty()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn measure(args: &BenchArgs) -> Result<Vec<Measured>, NotMeasured> {
    args.target.valid().map_err(NotMeasured::Config)?;
    let config = args.config.as_deref().map(config_file).transpose();
    let config = config.map_err(NotMeasured::Config)?.map(Arc::new);
    let options = ConnectOptions {
        config,
        handshake_timeout: args.timeout,
        extensions: match args.legacy {
            true => Extensions::NONE,
            false => Extensions::ALL,
        },
        proxy_id: "portcullis-bench".to_owned(),
        ..ConnectOptions::new("bench")
    };
    block_on(async {
        let mut results = Vec::new();
        let connections = connect(args, &options).await?;
        for (_, kind) in super::PHASES {
            let is_wanted = args.phases.is_empty() || args.phases.contains(&kind);
            if is_wanted && connections.iter().all(|it| it.supports(kind)) {
                results.push(measure_one(args, &options, kind).await?);
            }
        }
        match results.is_empty() {
            true => Err(NotMeasured::NoPhase(args.target.clone())),
            false => Ok(results),
        }
    })?
}

async fn connect(
    args: &BenchArgs,
    options: &ConnectOptions,
) -> Result<Vec<AnyConnection>, NotMeasured> {
    let mut connections = Vec::new();
    for _ in 0..args.connections {
        let connection = args.target.connect(options).await;
        let named = |error| NotMeasured::Connect(args.target.clone(), error);
        connections.push(connection.map_err(named)?);
    }
    Ok(connections)
}

/// What was measured of one phase.
#[derive(Default)]
struct Measured {
    phase: &'static str,
    seconds: f64,
    calls: u64,
    /// Of the calls that were answered, or a fair choice of them.
    times: Vec<Duration>,
    longest: Duration,
    failures: BTreeMap<String, u64>,
}

impl Measured {
    fn answered(&mut self, time: Duration) {
        self.calls += 1;
        self.longest = self.longest.max(time);
        if self.times.len() < MOST_TIMES {
            self.times.push(time);
            return;
        }
        // Each of all calls has the same chance to be among those that are kept.
        let place = rand::rng().random_range(0..self.calls);
        if let Some(kept) = usize::try_from(place)
            .ok()
            .and_then(|at| self.times.get_mut(at))
        {
            *kept = time;
        }
    }

    fn failed_with(&mut self, error: String) {
        *self.failures.entry(error).or_default() += 1;
    }

    fn per_second(&self) -> f64 {
        self.calls as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The times must be in order. The time that so many of a thousand calls did not exceed.
    fn quantile(&self, of_thousand: usize) -> Duration {
        let rank = (self.times.len() * of_thousand).div_ceil(1000);
        let at = rank.saturating_sub(1);
        self.times.get(at).copied().unwrap_or_default()
    }
}

async fn measure_one(
    args: &BenchArgs,
    options: &ConnectOptions,
    kind: EventKind,
) -> Result<Measured, NotMeasured> {
    // New ones, because what is left of the phase before would be in the way.
    let connections = connect(args, options).await?;
    let measured = RefCell::new(Measured {
        phase: phase_of(kind),
        ..Measured::default()
    });
    let started = Instant::now();
    let end = started + args.duration;
    let lanes = connections.iter().enumerate().flat_map(|(at, connection)| {
        let measured = &measured;
        (0..args.concurrency).map(move |lane| {
            let name = format!("bench-{}-{at}-{lane}", std::process::id());
            let lane = Lane {
                args,
                connection,
                kind,
                name,
            };
            async move { lane.ask_until(end, measured).await }
        })
    });
    join_all(lanes).await;
    let mut measured = measured.into_inner();
    measured.seconds = started.elapsed().as_secs_f64();
    measured.times.sort_unstable();
    Ok(measured)
}

/// Asks one thing after the other.
struct Lane<'a> {
    args: &'a BenchArgs,
    connection: &'a AnyConnection,
    kind: EventKind,
    name: String,
}

impl Lane<'_> {
    async fn ask_until(&self, end: Instant, measured: &RefCell<Measured>) {
        let bytes = self.args.bytes as usize;
        let body = matches!(
            self.kind,
            EventKind::RequestBodyChunk | EventKind::ResponseBodyChunk
        );
        let sample = Sample::new(&self.args.sample, 0, body.then_some(bytes));
        let data = sample.text(bytes);
        let mut number = 0;
        while Instant::now() < end {
            let started = Instant::now();
            let asked = self.call(&sample, &data, number).await;
            number += 1;
            let Err(error) = asked else {
                measured.borrow_mut().answered(started.elapsed());
                continue;
            };
            measured.borrow_mut().failed_with(error);
            if !self.connection.is_open() {
                return;
            }
            // What cannot even be sent must not keep others from their turn.
            tokio::task::yield_now().await;
        }
    }

    async fn call(&self, sample: &Sample, data: &Bytes, number: u64) -> Result<(), String> {
        // All frames of a lane are those of one socket.
        let (id, event): (String, Event<'_>);
        event = match self.kind {
            EventKind::WebSocketFrame => sample.frame(&self.name, data.clone(), (true, number)),
            kind => {
                id = format!("{}-{number}", self.name);
                sample.single(kind, &id, data)
            }
        };
        let answer = self.connection.send(&event, CallGuard::none());
        let answer = answer.map_err(|error| error.to_string())?;
        match tokio::time::timeout(self.args.timeout, answer).await {
            Err(_) => Err(format!("no answer within {:?}", self.args.timeout)),
            Ok(Ok(_)) => Ok(()),
            // The text has the number of the event in it, which would make as many failures as there are.
            Ok(Err(CallError::Protocol(_))) => Err("the agent broke the protocol".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
        }
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn as_text(results: &[Measured]) -> String {
    let heads = [
        "phase", "calls/s", "p50 us", "p99 us", "max us", "failed", "",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    for result in results {
        let time = |time| format!("{:.1}", microseconds(time));
        let why = result.failures.keys().next().cloned();
        rows.push([
            result.phase.to_owned(),
            format!("{:.0}", result.per_second()),
            time(result.quantile(500)),
            time(result.quantile(990)),
            time(result.longest),
            result.failed().to_string(),
            why.unwrap_or_default(),
        ]);
    }
    table(&rows, &[1, 2, 3, 4, 5])
}

fn as_json(args: &BenchArgs, results: &[Measured]) -> String {
    let phases: Vec<_> = results
        .iter()
        .map(|result| {
            json!({
                "phase": result.phase,
                "calls": result.calls,
                "calls_per_second": result.per_second(),
                "p50_us": microseconds(result.quantile(500)),
                "p99_us": microseconds(result.quantile(990)),
                "max_us": microseconds(result.longest),
                "failed": result.failed(),
                "failures": result.failures,
            })
        })
        .collect();
    let report = json!({
        "target": args.target.to_string(),
        "connections": args.connections,
        "concurrency": args.concurrency,
        "phases": phases,
    });
    format!("{report:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let mut measured = Measured::default();
        assert_eq!(measured.quantile(990), Duration::ZERO);
        for micros in 1..=200 {
            measured.answered(Duration::from_micros(micros));
        }
        let micros = |of_thousand| measured.quantile(of_thousand).as_micros();
        assert_eq!((micros(500), micros(990), micros(1000)), (100, 198, 200));
        assert_eq!(measured.longest, Duration::from_micros(200));
    }
}
