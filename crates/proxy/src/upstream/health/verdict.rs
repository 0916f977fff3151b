//! From single answers to whether a target is in order; pure.

use portcullis_config::HealthCheck;

/// See the module.
#[derive(Debug)]
pub(super) struct Verdict {
    healthy_after: u32,
    unhealthy_after: u32,
    /// Answers in a row that say something else.
    against: u32,
}

impl Verdict {
    pub(super) const fn new(settings: &HealthCheck) -> Self {
        Self {
            healthy_after: settings.healthy,
            unhealthy_after: settings.unhealthy,
            against: 0,
        }
    }

    /// An answer came, or none. Returns what holds from now on when that is something else than `known`, which held so far. The
    /// first answer decides alone.
    pub(super) fn add(&mut self, known: Option<bool>, is_good: bool) -> Option<bool> {
        let Some(is_healthy) = known else {
            self.against = 0;
            return Some(is_good);
        };
        if is_good == is_healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = if is_good {
            self.healthy_after
        } else {
            self.unhealthy_after
        };
        if self.against < enough {
            return None;
        }
        self.against = 0;
        Some(is_good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::HealthCheckKind;
    use std::time::Duration;

    /// What is said to each of these answers: `+` good, `-` not.
    fn said(mut known: Option<bool>, answers: &str) -> String {
        let settings = HealthCheck {
            kind: HealthCheckKind::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
        };
        let mut verdict = Verdict::new(&settings);
        let told = answers.chars().map(|answer| {
            let told = verdict.add(known, answer == '+');
            known = told.or(known);
            told
        });
        told.map(|told| match told {
            None => '.',
            Some(true) => 'H',
            Some(false) => 'U',
        })
        .collect()
    }

    #[test]
    fn it_takes_several_answers_in_a_row_but_for_the_first() {
        for (known, answers, expected) in [
            (None, "+++", "H.."),
            (None, "---", "U.."),
            (None, "+--+---", "H.....U"),
            (None, "-+-++", "U...H"),
            (None, "-++---", "U.H..U"),
            (Some(true), "---", "..U"),
            (Some(false), "++", ".H"),
            (Some(false), "---", "..."),
        ] {
            assert_eq!(said(known, answers), expected, "{known:?} {answers}");
        }
    }
}
