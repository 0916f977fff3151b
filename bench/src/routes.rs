//! What a configuration with many routes costs beside the requests: how long the proxy takes to start, compared with how long
//! the `kdl` crate takes to parse the same text, and how much memory it has after its first request, compared with a
//! configuration of ten routes.
//!
//! Both are done by this program in turns, as often as is asked for; the figure of the start is the median of the ratios.

use crate::{
    drive::{self, say},
    error::BenchError,
    process::{answers_ok, free_address},
    scenario::{Places, Protocol, ROUTED_PATH, configuration, many_routes},
    stage::{Programs, Stage},
    statistics::median,
    usage::Memory,
};
use kdl::KdlDocument;
use std::{
    fmt::Write as _,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Routes of the large configuration.
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Starts of each configuration.
    #[arg(long, default_value_t = 7)]
    starts: usize,
    /// The proxy to measure; without it, a release build of this workspace is made.
    #[arg(long)]
    binary: Option<PathBuf>,
}

const FEW: usize = 10;
/// Bars.
const MOST_RATIO: f64 = 1.5;
const MOST_MORE_KIB: f64 = 30.0 * 1024.0;

/// What one start has shown.
struct Start {
    ready: Duration,
    /// Resident memory after the first request.
    kib: f64,
}

/// Measures and reports: the verdict to stdout, all else to stderr.
///
/// # Errors
/// The proxy does not start, or a bar is not met.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    drive::refuse_debug()?;
    let executable = drive::executable()?;
    let program = drive::program(options.binary.as_deref(), &executable)?;
    let directory = tempfile::Builder::new()
        .prefix("portcullis-bench-")
        .tempdir()
        .map_err(BenchError::io("make a directory"))?;
    drive::look_at_machine();
    let stage = Stage::set(
        executable,
        Programs {
            proxy: program,
            envoy: PathBuf::new(),
        },
        directory.path(),
        drive::processors()?,
        1024,
    )?;
    let (mut ratios, mut parses, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for round in 0..options.starts {
        few.push(start(&stage, FEW)?.kib);
        let parse = parse(&stage, options.routes)?;
        let start = start(&stage, options.routes)?;
        ratios.push(start.ready.as_secs_f64() / parse.as_secs_f64());
        parses.push(parse.as_secs_f64() * 1000.0);
        starts.push(start.ready.as_secs_f64() * 1000.0);
        many.push(start.kib);
        say(&format!(
            "{}/{}: parsed in {parse:.1?}, ready in {:.1?}, {:.0} KiB",
            round + 1,
            options.starts,
            start.ready,
            start.kib
        ));
    }
    let ratio = median(&ratios);
    let (few, many) = (median(&few), median(&many));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "start with {} routes: {:.1} ms, {ratio:.2} of the {:.1} ms that the kdl crate takes to parse them (at most {MOST_RATIO})",
        options.routes,
        median(&starts),
        median(&parses),
    );
    let more = many - few;
    let _ = writeln!(
        text,
        "memory after the first request: {:.1} MiB, {:.1} MiB more than with {FEW} routes (at most {:.0})",
        many / 1024.0,
        more / 1024.0,
        MOST_MORE_KIB / 1024.0
    );
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(BenchError::io("print the report"))?;
    if ratio <= MOST_RATIO && more <= MOST_MORE_KIB {
        return Ok(());
    }
    Err(BenchError::Usage("a bar is not met".to_owned()))
}

fn text_of(stage: &Stage, routes: usize) -> Result<(Places, String), BenchError> {
    let places = Places {
        listener: free_address()?,
        origin: stage.origin(),
        probes: free_address()?,
        access_log: stage.file("routes.access.json"),
        tls: stage.tls().clone(),
        agents: Vec::new(),
    };
    let text = configuration(Protocol::Http1, &many_routes(routes), &[], &places);
    Ok((places, text))
}

/// How long the library alone takes for the text.
fn parse(stage: &Stage, routes: usize) -> Result<Duration, BenchError> {
    let (_, text) = text_of(stage, routes)?;
    let start = Instant::now();
    let document = KdlDocument::parse_v2(&text);
    let took = start.elapsed();
    document.map_err(|error| BenchError::Usage(format!("the text is not KDL: {error}")))?;
    Ok(took)
}

fn start(stage: &Stage, routes: usize) -> Result<Start, BenchError> {
    let (places, text) = text_of(stage, routes)?;
    let start = Instant::now();
    let process = stage.start_proxy(&format!("routes-{routes}"), &text, places.probes)?;
    let ready = start.elapsed();
    if !answers_ok(places.listener, ROUTED_PATH) {
        return Err(BenchError::Usage("the first request failed".to_owned()));
    }
    let resident = Memory::of(process.pid())?.resident_bytes;
    Ok(Start {
        ready,
        kib: resident as f64 / 1024.0,
    })
}
