//! What an `agent` in `filters` says about being asked in the shadow of requests.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::code,
    model::{AgentId, Fallback, Ramp, Share},
    source::Spanned,
};

/// `mode="shadow"` and what belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct ParsedShadow {
    pub(crate) compare_with: Option<Spanned<AgentId>>,
    pub(crate) ramp: Option<Ramp>,
}

/// The most calls of a window.
const MOST_CALLS: u32 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Enforce,
    Shadow,
}

/// None: the agent's verdict holds, or the mode was reported as wrong already.
pub(super) fn shadow(node: &mut Node<'_>) -> Option<ParsedShadow> {
    let mode = node.property("mode");
    let chosen = mode.map_or(Some(Mode::Enforce), |value| {
        value.choice(&[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)], &[])
    });
    let compare_with = node.property("compare-with");
    let enforce = node.property("enforce");
    let fallback = ["fallback-failures", "fallback-calls", "fallback-for"]
        .map(|name| (name, node.property(name)));
    if chosen == Some(Mode::Enforce) {
        refuse("compare-with", compare_with, "mode=\"shadow\"");
        refuse("enforce", enforce, "mode=\"shadow\"");
        for (name, value) in fallback {
            refuse(name, value, "mode=\"shadow\" enforce=\"5%\"");
        }
        return None;
    }
    let share = enforce
        .map(|value| value.share(Share::of_hundredths(0)..=Share::of_hundredths(Share::WHOLE)));
    if share.is_none() {
        for (name, value) in fallback {
            refuse(name, value, "enforce=\"5%\"");
        }
    }
    // What is wrong is reported, whatever else is.
    let fallback = share.map(|_| ended(fallback.map(|(_, value)| value)));
    let compare_with = compare_with.map(|value| {
        let text = value.text();
        text.map(|text| value.spanned(AgentId::from(text)))
    });
    chosen?;
    Some(ParsedShadow {
        compare_with: compare_with.flatten(),
        ramp: match (share.flatten(), fallback) {
            (Some(share), Some(fallback)) => Some(Ramp { share, fallback }),
            _ => None,
        },
    })
}

fn ended([failures, calls, lasts]: [Option<Value<'_>>; 3]) -> Fallback {
    let program = Fallback::default();
    let shares = Share::of_hundredths(1)..=Share::of_hundredths(Share::WHOLE);
    Fallback {
        failures: failures
            .and_then(|value| value.share(shares))
            .unwrap_or(program.failures),
        calls: calls
            .and_then(|value| value.integer(1..=MOST_CALLS))
            .unwrap_or(program.calls),
        lasts: lasts
            .and_then(|value| value.timeout())
            .unwrap_or(program.lasts),
    }
}

/// Refuses a property that does nothing without others.
fn refuse(name: &str, value: Option<Value<'_>>, needs: &str) {
    if let Some(value) = value {
        value.report(
            value
                .error(
                    code::CONTRADICTION,
                    format!("`{name}` has no effect on this line"),
                )
                .help(format!("add `{needs}` to the line, or remove `{name}`")),
        );
    }
}
