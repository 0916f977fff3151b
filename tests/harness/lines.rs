//! What a process prints, line by line, and where it says that it listens.

use serde_json::Value;
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
};

/// What a process has written so far, line by line.
#[derive(Clone, Default)]
pub(super) struct Lines(pub(super) Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(super) fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let sink = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                sink.0.lock().unwrap().push(line);
            }
        });
        lines
    }

    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Where the process says that it listens, in either format of the log.
    pub(super) fn addresses(&self) -> HashMap<String, SocketAddr> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter_map(|line| listening(line)).collect()
    }
}

fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let (name, address) = match serde_json::from_str::<Value>(line) {
        Ok(line) if line["message"] == "listening" => (
            line["listener"].as_str()?.to_owned(),
            line["address"].as_str()?.to_owned(),
        ),
        Ok(_) => return None,
        Err(_) => {
            let (_, fields) = line.split_once(" listening ")?;
            let field = |name: &str| {
                let (_, rest) = fields.split_once(name)?;
                Some(rest.split(' ').next()?.trim_matches('"').to_owned())
            };
            (field("listener=")?, field("address=")?)
        }
    };
    Some((name, address.parse().ok()?))
}
