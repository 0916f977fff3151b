//! `reported-metrics` and `allow-reload` of an agent.

use super::{
    cursor::{Block, Node},
    value::LONGEST,
};
use crate::{diagnostic::code, model::Reports};
use std::{ops::RangeInclusive, time::Duration};

/// What reads our metrics reads all of them.
const MOST_SERIES: u32 = 10_000;
/// Between two reloads that an agent asks for, when nobody says otherwise.
const RELOAD_INTERVAL: Duration = Duration::from_secs(30);
/// A reload takes some time itself.
const RELOAD_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=LONGEST;

pub(super) fn reports(block: &mut Block<'_>) -> Reports {
    let program = Reports::default();
    Reports {
        max_series: block
            .one("reported-metrics", max_series)
            .unwrap_or(program.max_series),
        allow_reload: block.one("allow-reload", |node| Some(reload_interval(node))),
    }
}

fn max_series(node: &mut Node<'_>) -> Option<usize> {
    if node.is_bare() {
        node.report(
            node.error(code::MISSING, "this `reported-metrics` says nothing")
                .label("has no properties")
                .help("write such as `reported-metrics max-series=500`, or remove it"),
        );
    }
    node.property("max-series")?.count(0..=MOST_SERIES)
}

fn reload_interval(node: &mut Node<'_>) -> Duration {
    node.property("min-interval")
        .and_then(|value| value.duration(RELOAD_INTERVALS))
        .unwrap_or(RELOAD_INTERVAL)
}
