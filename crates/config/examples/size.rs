//! What a configuration with many routes costs to read, in time and memory.
//!
//! ```text
//! cargo run --release -p portcullis-config --example size -- MODE ROUTES
//! ```
//!
//! Each mode runs in a process of its own, so that the memory of one does not hide that of another:
//!
//! | mode | what is done |
//! |---|---|
//! | `parse` | the `kdl` crate parses the whole text; its tree is kept |
//! | `drop` | the same, and the tree is dropped before memory is looked at |
//! | `load` | this crate loads the text; the configuration is kept |
//! | `scan` | a scanner of a few lines counts the tokens: about the least that any parser must do |
#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use kdl::KdlDocument;
use std::{fmt::Write, hint::black_box, path::Path, process::ExitCode, time::Instant};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let routes = arguments
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(10_000);
    let text = generate(routes);
    let before = memory("VmRSS");
    let start = Instant::now();
    // Whatever the mode keeps lives until memory has been looked at.
    let outcome: Result<Kept, String> = match mode.as_str() {
        "parse" => parse(&text).map(|document| Kept::Tree(Box::new(document))),
        "drop" => parse(&text).map(|document| Kept::Count(document.nodes().len())),
        "load" => portcullis_config::load_str("generated.kdl", &text, Path::new(""), &|_| None)
            .map(|loaded| Kept::Configuration(Box::new(loaded)))
            .map_err(|diagnostics| diagnostics.to_string()),
        "scan" => Ok(Kept::Count(count_tokens(&text))),
        _ => Err("usage: size parse|drop|load|scan [ROUTES]".to_owned()),
    };
    let time = start.elapsed();
    let kept = match outcome {
        Ok(kept) => black_box(kept),
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("mode {mode}");
    println!("routes {routes}");
    println!("text_bytes {}", text.len());
    println!("time_ms {:.1}", time.as_secs_f64() * 1000.0);
    println!("rss_growth_kib {}", memory("VmRSS").saturating_sub(before));
    println!("peak_growth_kib {}", memory("VmHWM").saturating_sub(before));
    println!("kept {}", kept.size());
    ExitCode::SUCCESS
}

/// What a mode holds on to while memory is looked at.
enum Kept {
    Tree(Box<KdlDocument>),
    Configuration(Box<portcullis_config::Loaded>),
    Count(usize),
}

impl Kept {
    /// Something that depends on all of it.
    fn size(&self) -> usize {
        match self {
            Self::Tree(document) => document.nodes().len(),
            Self::Configuration(loaded) => loaded.config.routes.len(),
            Self::Count(count) => *count,
        }
    }
}

fn parse(text: &str) -> Result<KdlDocument, String> {
    KdlDocument::parse_v2(text).map_err(|error| error.to_string())
}

/// A configuration whose routes have one `match` block each.
fn generate(routes: usize) -> String {
    let mut text = String::from(
        "schema-version \"1\"\nlisteners { listener \"http\" { address \"127.0.0.1:8080\" } }\n\
         upstreams { upstream \"backend\" { target \"127.0.0.1:3000\" } }\nroutes {\n",
    );
    for number in 0..routes {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "    route \"route-{number}\" {{\n        match {{ host \"host-{number}.example.com\"; path-prefix \
             \"/service/{number}\" }}\n        upstream \"backend\"\n    }}",
        );
    }
    text.push_str("}\n");
    text
}

/// Words, strings and signs; comments and escapes as far as the generated text needs them.
fn count_tokens(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut tokens = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'{' | b'}' | b';' | b'=' => {
                tokens += 1;
                at += 1;
            }
            b'"' => {
                tokens += 1;
                at += 1;
                while let Some(byte) = bytes.get(at) {
                    at += if *byte == b'\\' { 2 } else { 1 };
                    if *byte == b'"' {
                        break;
                    }
                }
            }
            _ => {
                tokens += 1;
                at += bytes[at..]
                    .iter()
                    .take_while(|byte| !b" \t\r\n{};=\"".contains(byte))
                    .count();
            }
        }
    }
    tokens
}

/// A line of `/proc/self/status` in KiB; 0 where there is none.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
