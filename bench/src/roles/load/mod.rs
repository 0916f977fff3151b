//! The client: HTTP/1.1 or HTTP/2 over connections that stay, all on one thread.
//!
//! A lane sends one request at a time: a connection of HTTP/1.1 is one, a connection of HTTP/2 has several. Closed loop: each
//! lane sends its next request when it has the answer to the last one. Open loop (`--rate`): each lane has a timetable, and
//! a latency counts from the moment at which the request was due, so that a stalled server cannot hide its stall by keeping
//! the client from asking.

mod client;
mod http2;
mod pace;
mod tls;

use crate::{
    error::BenchError,
    statistics::{Histogram, Latency},
    usage::{Sample, Usage},
};
use client::{Client, Expected, Failure};
use http2::Link;
use pace::Pace;
use serde::{Deserialize, Serialize};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::Write as _,
    iter,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};
pub(crate) use tls::SERVER_NAME;
use tokio::{sync::Notify, task::LocalSet, time};

/// More failures than this, and there is nothing to be measured.
const ERRORS_MAX: u64 = 1_000;
/// How long a fixed number of requests may take in all.
const COUNT_DEADLINE: Duration = Duration::from_mins(5);

/// What to send, for how long, and what to expect.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Whom to ask.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// Connections, all opened at the start.
    #[arg(long, default_value_t = 32)]
    pub(crate) connections: usize,
    /// HTTP/2 with prior knowledge, with four requests at once on each connection, instead of HTTP/1.1.
    #[arg(long)]
    pub(crate) http2: bool,
    /// TLS, with a server whose certificate is in this file.
    #[arg(long, requires = "http2")]
    pub(crate) ca: Option<PathBuf>,
    /// The measured time in seconds.
    #[arg(long, default_value_t = 2.5)]
    pub(crate) seconds: f64,
    /// Seconds of the same load before the measured time.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warmup: f64,
    /// Measure this many requests instead of a time.
    #[arg(long)]
    pub(crate) requests: Option<u64>,
    /// Requests per second of all connections together (open loop); without it each waits for its answer only.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// With a rate: all connections are due at the same moment, and not one after the other.
    #[arg(long, requires = "rate")]
    pub(crate) together: bool,
    /// The method.
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// The request target.
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// A header line, `name: value`; may be repeated.
    #[arg(long = "header")]
    pub(crate) headers: Vec<String>,
    /// The bytes of a request's body.
    #[arg(long, default_value_t = 0)]
    pub(crate) body_bytes: usize,
    /// The status that every answer must have.
    #[arg(long, default_value_t = 200)]
    pub(crate) expect_status: u16,
    /// The bytes that the body of every answer must have.
    #[arg(long, default_value_t = 1024)]
    pub(crate) expect_bytes: usize,
    /// Every whole answer is right, and the report says how many there were of each status.
    #[arg(long)]
    pub(crate) any_status: bool,
    /// A process whose use of the machine is measured over the same time; may be repeated.
    #[arg(long = "watch")]
    pub(crate) watch: Vec<u32>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LoadReport {
    /// The measured time.
    pub(crate) seconds: f64,
    /// Right answers in that time.
    pub(crate) requests: u64,
    /// The right answers by their status.
    #[serde(default)]
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Failures of every kind, those of the warm-up included.
    pub(crate) errors: u64,
    /// What the first failure was.
    pub(crate) first_error: Option<String>,
    /// Of the right answers.
    pub(crate) latency: Latency,
    /// The watched processes in the order given.
    pub(crate) usage: Vec<Usage>,
}

/// Measures once and writes the report to stdout as JSON.
///
/// # Errors
/// Nearly every request fails, or a watched process is gone.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    if options.connections == 0 || options.rate.is_some_and(|rate| rate <= 0.0) {
        return Err(BenchError::Usage(
            "load: at least one connection, and a rate above 0".to_owned(),
        ));
    }
    let runtime = super::current_thread_runtime()?;
    let report = LocalSet::new().block_on(&runtime, measure(options))?;
    let text = serde_json::to_string(&report).map_err(|source| BenchError::Json {
        doing: "write the report".to_owned(),
        source,
    })?;
    writeln!(std::io::stdout(), "{text}").map_err(BenchError::io("write the report"))
}

/// What the lanes and the controller share; all on one thread.
struct Shared {
    recording: Cell<bool>,
    requests: Cell<u64>,
    requests_wanted: Option<u64>,
    statuses: RefCell<BTreeMap<u16, u64>>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    histogram: RefCell<Histogram>,
    /// The number of requests is reached, or there are too many errors.
    finished: Notify,
}

impl Shared {
    fn succeeded(&self, status: u16, latency: Duration) {
        if !self.recording.get() {
            return;
        }
        self.requests.set(self.requests.get() + 1);
        *self.statuses.borrow_mut().entry(status).or_default() += 1;
        self.histogram.borrow_mut().record(latency);
        if self.requests_wanted == Some(self.requests.get()) {
            self.recording.set(false);
            self.finished.notify_one();
        }
    }

    fn failed(&self, error: &Failure) {
        self.errors.set(self.errors.get() + 1);
        self.first_error
            .borrow_mut()
            .get_or_insert_with(|| error.to_string());
        if self.errors.get() > ERRORS_MAX {
            self.finished.notify_one();
        }
    }
}

async fn measure(options: &Options) -> Result<LoadReport, BenchError> {
    let shared = Rc::new(Shared {
        recording: Cell::new(false),
        requests: Cell::new(0),
        requests_wanted: options.requests,
        statuses: RefCell::default(),
        errors: Cell::new(0),
        first_error: RefCell::new(None),
        histogram: RefCell::new(Histogram::new()),
        finished: Notify::new(),
    });
    let asking = asking(options)?;
    let lanes = asking.len();
    for (index, asking) in asking.into_iter().enumerate() {
        let pace = options
            .rate
            .map(|rate| {
                let index = if options.together { 0 } else { index };
                Pace::new(rate, index, lanes)
            })
            .transpose()
            .map_err(BenchError::io("make a timer"))?;
        let lane = Lane {
            asking,
            pace,
            shared: Rc::clone(&shared),
        };
        tokio::task::spawn_local(lane.run());
    }

    time::sleep(Duration::from_secs_f64(options.warmup)).await;
    let before = samples(&options.watch)?;
    let start = Instant::now();
    shared.recording.set(true);
    let limit = match options.requests {
        Some(_) => COUNT_DEADLINE,
        None => Duration::from_secs_f64(options.seconds),
    };
    // Either end is fine: the errors are looked at below, and so is a count that was not reached.
    let _ = time::timeout(limit, shared.finished.notified()).await;
    shared.recording.set(false);
    let seconds = start.elapsed().as_secs_f64();
    let after = samples(&options.watch)?;

    let first_error = shared.first_error.borrow().clone();
    if shared.errors.get() > ERRORS_MAX || shared.requests.get() == 0 {
        return Err(BenchError::TooManyErrors {
            errors: shared.errors.get(),
            first: first_error.unwrap_or_else(|| "no answer at all".to_owned()),
        });
    }
    let usage = options
        .watch
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(pid, (before, after))| after.since(before, *pid))
        .collect();
    Ok(LoadReport {
        seconds,
        requests: shared.requests.get(),
        statuses: shared.statuses.take(),
        errors: shared.errors.get(),
        first_error,
        latency: shared.histogram.borrow().summary(),
        usage,
    })
}

fn samples(pids: &[u32]) -> Result<Vec<Sample>, BenchError> {
    pids.iter().map(|pid| Sample::take(*pid)).collect()
}

fn request_of(options: &Options) -> Vec<u8> {
    let Options { method, path, .. } = options;
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", options.target);
    for header in &options.headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if options.body_bytes > 0 {
        text.push_str(&format!("content-length: {}\r\n", options.body_bytes));
    }
    text.push_str("\r\n");
    let mut request = text.into_bytes();
    request.resize(request.len() + options.body_bytes, b'x');
    request
}

/// How a lane asks.
enum Asking {
    Http1 { client: Client, request: Rc<[u8]> },
    Http2(http2::Client),
}

impl Asking {
    async fn exchange(&mut self) -> Result<u16, Failure> {
        match self {
            Self::Http1 { client, request } => client.exchange(request).await,
            Self::Http2(client) => client.exchange().await,
        }
    }
}

/// The clients of all lanes.
///
/// # Errors
/// The options make no request.
fn asking(options: &Options) -> Result<Vec<Asking>, BenchError> {
    let expected = Expected::of(options);
    let connections = 0..options.connections;
    if options.http2 {
        let message = http2::Message::of(options)?;
        let tls = options.ca.as_deref().map(tls::connector).transpose()?;
        let links = connections.map(|_| Link::new(options.target, tls.clone()));
        let streams = links.flat_map(|link| iter::repeat_n(link, http2::STREAMS));
        return Ok(streams
            .map(|link| Asking::Http2(http2::Client::new(link, message.clone(), expected)))
            .collect());
    }
    let request: Rc<[u8]> = request_of(options).into();
    Ok(connections
        .map(|_| Asking::Http1 {
            client: Client::new(options.target, expected),
            request: Rc::clone(&request),
        })
        .collect())
}

/// One request after the other until the process ends.
struct Lane {
    asking: Asking,
    pace: Option<Pace>,
    shared: Rc<Shared>,
}

impl Lane {
    async fn run(mut self) {
        loop {
            let due = match &mut self.pace {
                None => Instant::now(),
                Some(pace) => match pace.next().await {
                    Ok(due) => due,
                    Err(error) => return self.shared.failed(&error.into()),
                },
            };
            match self.asking.exchange().await {
                Ok(status) => self.shared.succeeded(status, due.elapsed()),
                Err(error) => {
                    self.shared.failed(&error);
                    // A refused connection fails without ever waiting; the controller must get its turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    pub(super) fn options(line: &str) -> Options {
        Line::parse_from(line.split(' ')).options
    }

    #[test]
    fn requests_as_they_are_sent() {
        for (line, expected) in [
            (
                "load --target 127.0.0.1:80",
                "GET / HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n",
            ),
            (
                "load --target 127.0.0.1:80 --method POST --path /a?b --header x:y --body-bytes 3",
                "POST /a?b HTTP/1.1\r\nhost: 127.0.0.1:80\r\nx:y\r\ncontent-length: 3\r\n\r\nxxx",
            ),
        ] {
            let request = request_of(&options(line));
            assert_eq!(String::from_utf8(request).unwrap(), expected, "{line}");
        }
    }

    /// An origin in the same runtime, on a free port.
    async fn origin(answer: &'static str) -> SocketAddr {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn measured(answer: &'static str, more: &str) -> Result<LoadReport, BenchError> {
        let runtime = super::super::current_thread_runtime().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let target = origin(answer).await;
            let line = format!("load --target {target} --connections 2 --warmup 0 {more}");
            measure(&options(&line)).await
        })
    }

    #[test]
    fn a_fixed_number_of_requests_is_measured() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for more in ["", " --rate 5000"] {
            let line = format!("--requests 50 --expect-bytes 3{more}");
            let report = measured(answer, &line).unwrap();
            assert_eq!((report.requests, report.errors), (50, 0), "{more}");
            assert!(report.latency.p50_us > 0.0);
        }
    }

    #[test]
    fn wrong_answers_are_errors() {
        for (answer, expected) in [
            (
                "HTTP/1.1 403 No\r\ncontent-length: 3\r\n\r\nabc",
                "status 403",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", "2 bytes"),
            ("HTTP/1.1 200 OK\r\n\r\n", "content-length"),
            ("nonsense\r\n\r\n", "not an answer"),
        ] {
            let error = measured(answer, "--requests 5 --expect-bytes 3").unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{error} for {answer:?}"
            );
        }
    }
}
