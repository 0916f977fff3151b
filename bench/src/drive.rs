//! The driver: everything up, then round after round, then the report.

use crate::{
    error::BenchError,
    report::{Machine, Report, Series, cpu_us},
    scenario::{SCENARIOS, Scenario, Subject, choose},
    stage::{Cast, Load, Processors, Programs, Stage},
};
use rustix::thread::sched_getaffinity;
use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    time::SystemTime,
};

/// What to measure, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds; each runs every scenario once, in an order that turns.
    #[arg(long, default_value_t = 11)]
    pairs: usize,
    /// Seconds that are measured of each scenario in each round.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Seconds of the same load before that.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Connections of the client.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Requests per second (open loop) instead of as many as possible.
    #[arg(long)]
    rate: Option<f64>,
    /// The bytes of an answer's body.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Only these, separated by commas; `--list` names them.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Says which scenarios there are.
    #[arg(long)]
    list: bool,
    /// The proxy to measure; without it, a release build of this workspace is made.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Envoy, for the scenarios that measure it.
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
}

/// Measures and reports. The table goes to stdout, all else to stderr, the figures to target/bench/.
///
/// # Errors
/// A process does not come up or does not stay up, or there were errors among the answers.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    if options.list {
        return list();
    }
    refuse_debug()?;
    if options.pairs == 0 {
        return Err(BenchError::Usage("at least one pair".to_owned()));
    }
    let chosen = choose(&options.scenarios)
        .map_err(|name| BenchError::Usage(format!("no scenario `{name}`; `--list` names them")))?;
    let executable = executable()?;
    let mut subjects = chosen.iter().map(|one| &one.subject);
    let program = match subjects.any(|subject| matches!(subject, Subject::Ours { .. })) {
        true => program(options.binary.as_deref(), &executable)?,
        false => PathBuf::new(),
    };
    let load = Load {
        connections: options.connections,
        seconds: options.seconds,
        warmup: options.warmup,
        rate: options.rate,
        size: options.size,
    };
    let interrupted = watch_interrupts()?;
    let directory = tempfile::Builder::new()
        .prefix("portcullis-bench-")
        .tempdir()
        .map_err(BenchError::io("make a directory"))?;

    let machine = look_at_machine();
    let stage = Stage::set(
        executable.clone(),
        Programs {
            proxy: program,
            envoy: options.envoy.clone(),
        },
        directory.path(),
        processors()?,
        options.size,
    )?;
    let casts = casts(&stage, &chosen)?;
    let series = rounds(&stage, &casts, options.pairs, &load, &interrupted)?;
    drop(casts);
    let Some(report) = Report::of(series, &load, machine) else {
        return Err(BenchError::Usage(
            "no scenario could be measured".to_owned(),
        ));
    };
    write!(io::stdout(), "{report}").map_err(BenchError::io("print the report"))?;
    save(&report, &executable)?;
    refuse_errors(&report)
}

/// Refuses to measure what nobody runs.
///
/// # Errors
/// This is a debug build.
pub(crate) fn refuse_debug() -> Result<(), BenchError> {
    if cfg!(debug_assertions) {
        return Err(BenchError::Usage(
            "an unoptimised build measures nothing: use `make bench` or `cargo run --release -p portcullis-bench`".to_owned(),
        ));
    }
    Ok(())
}

/// This program.
///
/// # Errors
/// The system does not tell.
pub(crate) fn executable() -> Result<PathBuf, BenchError> {
    env::current_exe().map_err(BenchError::io("find this program"))
}

/// The proxy to measure: this one, or a fresh build.
///
/// # Errors
/// It does not build.
pub(crate) fn program(binary: Option<&Path>, executable: &Path) -> Result<PathBuf, BenchError> {
    if let Some(path) = binary {
        return Ok(path.to_owned());
    }
    build()?;
    Ok(executable.with_file_name("portcullis"))
}

/// What it is measured on. Says so when it has something else to do.
pub(crate) fn look_at_machine() -> Machine {
    let machine = Machine::look();
    if machine.load_before > 1.0 {
        say(&format!(
            "warning: the load average is {}; something else is running",
            machine.load_before
        ));
    }
    machine
}

/// All scenarios up, without those that are optional and do not start.
fn casts(stage: &Stage, chosen: &[&'static Scenario]) -> Result<Vec<Cast>, BenchError> {
    let mut casts = Vec::new();
    for scenario in chosen {
        match stage.cast(scenario) {
            Ok(cast) => casts.push(cast),
            Err(error @ BenchError::ProcessEnded { .. }) if scenario.optional => {
                say(&format!("{} is left out: {error}", scenario.name));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(casts)
}

/// Measures everything `pairs` times. The order turns, so that no scenario always follows the same other one's heat.
fn rounds(
    stage: &Stage,
    casts: &[Cast],
    pairs: usize,
    load: &Load,
    interrupted: &AtomicBool,
) -> Result<Vec<Series>, BenchError> {
    let mut series: Vec<Series> = casts
        .iter()
        .map(|cast| Series {
            scenario: cast.scenario,
            rounds: Vec::new(),
        })
        .collect();
    for round in 0..pairs {
        let mut line = format!("round {}/{pairs}:", round + 1);
        for turn in 0..casts.len() {
            let index = (round + turn) % casts.len();
            let measured = stage.measure(&casts[index], load, interrupted)?;
            let name = casts[index].scenario.name;
            line.push_str(&format!("  {name} {:.2} us", cpu_us(&measured)));
            series[index].rounds.push(measured);
        }
        say(&line);
    }
    Ok(series)
}

/// The first two processors that we may use: one for the proxy, one for all others. None on a machine with only one.
pub(crate) fn processors() -> Result<Processors, BenchError> {
    let allowed = sched_getaffinity(None)
        .map_err(|error| BenchError::io("ask for the processors")(error.into()))?;
    let mut set = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    Ok(match (set.next(), set.next()) {
        (Some(first), Some(second)) => Processors {
            proxy: Some(first),
            others: Some(second),
        },
        _ => {
            say("warning: only one processor; proxy and client share it");
            Processors {
                proxy: None,
                others: None,
            }
        }
    })
}

/// A release build of the proxy, next to this program.
fn build() -> Result<(), BenchError> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--package",
            "portcullis",
            "--bin",
            "portcullis",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .map_err(BenchError::io("start cargo"))?;
    if status.success() {
        Ok(())
    } else {
        Err(BenchError::Usage(
            "the proxy does not build; `--binary` measures another one".to_owned(),
        ))
    }
}

/// A flag that the interrupt and termination signals set: every process then ends by the ordinary way out.
pub(crate) fn watch_interrupts() -> Result<Arc<AtomicBool>, BenchError> {
    use tokio::signal::unix::{SignalKind, signal};
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("start a runtime"))?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                // Then the signals do what they do by default; the children see to their own end.
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            seen.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
    Ok(flag)
}

/// Writes target/bench/latest.json and the same under the time of now.
fn save(report: &Report, executable: &Path) -> Result<(), BenchError> {
    let directory = executable
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .join("bench");
    fs::create_dir_all(&directory).map_err(BenchError::file("make", &directory))?;
    let text = serde_json::to_string_pretty(report).map_err(|source| BenchError::Json {
        doing: "write the report".to_owned(),
        source,
    })?;
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    for name in [format!("{seconds}.json"), "latest.json".to_owned()] {
        let path = directory.join(name);
        fs::write(&path, &text).map_err(BenchError::file("write", &path))?;
        say(&format!("written: {}", path.display()));
    }
    Ok(())
}

fn refuse_errors(report: &Report) -> Result<(), BenchError> {
    let errors: u64 = report.scenarios.iter().map(|figures| figures.errors).sum();
    if errors == 0 {
        return Ok(());
    }
    let first = report
        .scenarios
        .iter()
        .find_map(|figures| figures.first_error.clone());
    Err(BenchError::Usage(format!(
        "{errors} requests failed, the figures are worth little; the first: {}",
        first.unwrap_or_default()
    )))
}

fn list() -> Result<(), BenchError> {
    let mut text = String::new();
    for scenario in SCENARIOS {
        let mark = if scenario.by_default { '*' } else { ' ' };
        text.push_str(&format!(
            "{mark} {:<12} {}\n",
            scenario.name, scenario.about
        ));
    }
    text.push_str("those with * run when none are named\n");
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(BenchError::io("print the list"))
}

/// To the user, beside the report. Nothing can be done if they do not listen.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
