//! How much of what others say goes into our log: no more than a reader could follow.

use std::time::{Duration, Instant};

/// Lets a number of lines through in each second.
#[derive(Debug)]
pub struct Allowance {
    per_second: u32,
    second: Instant,
    used: u32,
    dropped: u64,
}

impl Allowance {
    /// So many lines in each second from now on.
    #[must_use]
    pub const fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            second: now,
            used: 0,
            dropped: 0,
        }
    }

    /// Whether a line may pass; if so, how many were dropped before it.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.used = 0;
        }
        if self.used >= self.per_second {
            self.dropped += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_lines_in_a_second_are_counted_instead() {
        let start = Instant::now();
        let mut allowance = Allowance::new(3, start);
        for _ in 0..3 {
            assert_eq!(allowance.take(start), Some(0));
        }
        assert_eq!(allowance.take(start), None);
        assert_eq!(allowance.take(start), None);
        assert_eq!(allowance.take(start + Duration::from_secs(1)), Some(2));
    }
}
