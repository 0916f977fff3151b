//! Whether a route that asks nobody notices what is wrong with the agent of another route, and one that asks in the shadow
//! what is wrong with its own.
//!
//! Two proxies are up, each with an agent of its own: one is well, the other is not. A round loads one after the other, in
//! both cases both routes at the same time and by a timetable, and the two figures of a round make a pair. The figure is the
//! 99th percentile of the latency of the route that asks nobody.

mod scene;
mod trouble;
mod verdict;

use crate::{
    drive::{self, say},
    error::BenchError,
    scenario::Agent,
    stage::{Programs, Stage},
};
use scene::{Load, Scene};
use std::{
    io::{self, Write},
    path::PathBuf,
    sync::atomic::AtomicBool,
};
use trouble::{TROUBLES, Trouble, choose};
use verdict::{Pair, Verdict};

/// What to measure, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these troubles, separated by commas; `--list` names them.
    #[arg(long, value_delimiter = ',')]
    troubles: Vec<String>,
    /// Says which troubles there are.
    #[arg(long)]
    list: bool,
    /// Rounds; in each, the well agent and the other one, in an order that turns.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds that are measured of each half of a round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the same load before that. A crowd needs five to be all there; at seven, its next burst is amid the
    /// measured time.
    #[arg(long, default_value_t = 7.0)]
    warmup: f64,
    /// Requests per second to the route that asks nobody.
    #[arg(long, default_value_t = 1500.0)]
    rate: f64,
    /// The bytes of an answer's body.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// The proxy to measure; without it, a release build of this workspace is made.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Measures and reports: the verdicts to stdout, all else to stderr.
///
/// # Errors
/// A process does not come up or does not stay up, the route that asks nobody failed once, or a bar is not met, or something
/// else kept the machine too busy to tell.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    if options.list {
        return list();
    }
    drive::refuse_debug()?;
    if options.pairs == 0 {
        return Err(BenchError::Usage("at least one pair".to_owned()));
    }
    let chosen = choose(&options.troubles)
        .map_err(|name| BenchError::Usage(format!("no trouble `{name}`; `--list` names them")))?;
    let executable = drive::executable()?;
    let program = drive::program(options.binary.as_deref(), &executable)?;
    let interrupted = drive::watch_interrupts()?;
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
        options.size,
    )?;
    let load = Load {
        seconds: options.seconds,
        warmup: options.warmup,
        rate: options.rate,
        size: options.size,
    };
    let mut missed = Vec::new();
    for trouble in chosen {
        let pairs = measure(&stage, trouble, options.pairs, &load, &interrupted)?;
        let verdict = Verdict::of(&pairs);
        write!(
            io::stdout(),
            "\n{}: {}\n{verdict}",
            trouble.name,
            trouble.about
        )
        .map_err(BenchError::io("print the report"))?;
        if !verdict.is_met() {
            missed.push(trouble.name);
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(BenchError::Usage(format!(
        "the bar is not met, or the machine was too busy to tell: {}",
        missed.join(", ")
    )))
}

/// All rounds of a trouble. The order turns, so that neither half always follows the other.
fn measure(
    stage: &Stage,
    trouble: &'static Trouble,
    pairs: usize,
    load: &Load,
    interrupted: &AtomicBool,
) -> Result<Vec<Pair>, BenchError> {
    let start = |name: &str, agent: &'static Agent| {
        let name = format!("{}-{name}", trouble.name);
        Scene::start(stage, &name, trouble, agent)
    };
    let mut well = start("well", &trouble.well)?;
    let mut ill = start("ill", &trouble.ill)?;
    let mut measured = Vec::new();
    for round in 0..pairs {
        let mut of_well = || well.measure(stage, false, load, interrupted);
        let mut of_ill = || ill.measure(stage, trouble.stops, load, interrupted);
        let pair = if round % 2 == 0 {
            let well = of_well()?;
            Pair {
                well,
                ill: of_ill()?,
            }
        } else {
            let ill = of_ill()?;
            Pair {
                well: of_well()?,
                ill,
            }
        };
        say(&format!("{} {}/{pairs}: {pair}", trouble.name, round + 1));
        measured.push(pair);
    }
    Ok(measured)
}

fn list() -> Result<(), BenchError> {
    let lines: String = TROUBLES
        .iter()
        .map(|trouble| format!("{:<10} {}\n", trouble.name, trouble.about))
        .collect();
    io::stdout()
        .write_all(lines.as_bytes())
        .map_err(BenchError::io("print the list"))
}
