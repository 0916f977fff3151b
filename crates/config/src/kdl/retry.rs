//! `retry` of a route, `retry-budget` and `limits` of an upstream.

use super::{
    cursor::Node,
    health,
    value::{SHORTEST, Value},
};
use crate::{
    diagnostic::code,
    model::{Retry, RetryBudget, RetryOn, Share, UpstreamLimits},
    source::Spanned,
};
use std::time::Duration;

/// More tries would only keep those busy that are in trouble.
const MOST_ATTEMPTS: u32 = 10;
/// The most that an upstream has or lets wait.
const MOST_REQUESTS: u32 = 1_000_000;
/// Who waits for longer has gone away.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) fn retry(node: &mut Node<'_>) -> Option<Spanned<Retry>> {
    let attempts = match node.property("attempts") {
        Some(value) => value.integer(1..=MOST_ATTEMPTS),
        None => Some(1),
    };
    let per_try = node.property("per-try-timeout");
    let per_try_timeout = match per_try {
        Some(value) => value.timeout().map(Some),
        None => Some(None),
    };
    let on = node.block(|block| {
        block.one("on", |node| {
            let values = node.arguments("reasons, such as \"connect-failure\" or \"503\"");
            Some(health::all(values, reason))
        })
    });
    let on = match on {
        Some(written) => written?,
        None => {
            let mut on = vec![
                RetryOn::ConnectFailure,
                RetryOn::Reset,
                RetryOn::Status(503..=503),
            ];
            on.extend(per_try.map(|_| RetryOn::Timeout));
            on
        }
    };
    if let (Some(value), false) = (per_try, on.contains(&RetryOn::Timeout)) {
        value.report(
            value
                .error(code::CONTRADICTION, "nothing comes of this timeout")
                .help("add \"timeout\" to `on`, or remove it"),
        );
        return None;
    }
    Some(Spanned {
        span: node.span(),
        value: Retry {
            attempts: attempts?,
            per_try_timeout: per_try_timeout?,
            on,
        },
    })
}

fn reason(value: Value<'_>) -> Option<RetryOn> {
    if matches!(value.raw(), ::kdl::KdlValue::String(text) if text.starts_with(|c: char| c.is_ascii_digit()))
        || matches!(value.raw(), ::kdl::KdlValue::Integer(_))
    {
        let range = health::status(value)?;
        if *range.start() >= 400 {
            return Some(RetryOn::Status(range));
        }
        value.report(
            value
                .error(code::INVALID_VALUE, "this is no failure")
                .help("write statuses from 400 on"),
        );
        return None;
    }
    let choices = [("connect-failure", 0_u8), ("reset", 1), ("timeout", 2)];
    Some(match value.choice(&choices, &[])? {
        0 => RetryOn::ConnectFailure,
        1 => RetryOn::Reset,
        _ => RetryOn::Timeout,
    })
}

pub(super) fn budget(node: &mut Node<'_>) -> Option<RetryBudget> {
    let program = RetryBudget::default();
    let value = node.argument("a share, such as \"20%\"")?;
    let share = value.share(Share::of_hundredths(0)..=Share::of_hundredths(Share::WHOLE));
    let min = match node.property("min") {
        Some(value) => value.count(0..=MOST_REQUESTS),
        None => Some(program.min),
    };
    Some(RetryBudget {
        share: share?,
        min: min?,
    })
}

pub(super) fn limits(node: &mut Node<'_>) -> Option<UpstreamLimits> {
    let program = UpstreamLimits::default();
    let span = node.span();
    node.block(|block| {
        let requests = block.required("requests", "requests 1000", |node| {
            node.argument("how many requests there may be at once, such as 1000")?
                .count(1..=MOST_REQUESTS)
        });
        let pending = block.one("pending", |node| {
            let value = node.argument("how many more may wait, such as 100")?;
            Some(value.spanned(value.count(0..=MOST_REQUESTS)?))
        });
        let timeout = block.one("pending-timeout", |node| {
            let value = node.argument("a duration, such as \"1s\"")?;
            Some(value.spanned(value.duration(SHORTEST..=LONGEST_WAIT)?))
        });
        let waits = pending
            .as_ref()
            .map_or(program.pending, |pending| pending.value);
        if let (Some(timeout), 0) = (&timeout, waits) {
            block.report(
                crate::diagnostic::Diagnostic::error(
                    code::CONTRADICTION,
                    timeout.span,
                    "`pending-timeout` has no effect here",
                )
                .also(span, "nobody may wait")
                .help("add `pending 100`, or remove it"),
            );
        }
        Some(UpstreamLimits {
            requests: Some(requests?),
            pending: waits,
            pending_timeout: timeout.map_or(program.pending_timeout, |timeout| timeout.value),
        })
    })
}
