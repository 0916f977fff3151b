//! The timetable of one lane in the open loop.
//!
//! Tokio's timer has a resolution of a millisecond, which is many times the latency that is measured here; the kernel's
//! timer has one of microseconds.

use rustix::{
    fs::Timespec,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
    time::{timerfd_create, timerfd_settime},
};
use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};
use tokio::io::unix::AsyncFd;

/// When the requests of one lane are due.
pub(super) struct Pace {
    timer: AsyncFd<OwnedFd>,
    next: Instant,
    interval: Duration,
}

impl Pace {
    /// The timetable of lane `index` of `lanes`, which share `rate` requests per second evenly.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for the sake of types that change their descriptor; an OwnedFd does not"
    )]
    pub(super) fn new(rate: f64, index: usize, lanes: usize) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interval = Duration::from_secs_f64(lanes as f64 / rate);
        let offset = Duration::from_secs_f64(index as f64 / rate);
        Ok(Self {
            timer: AsyncFd::new(timer)?,
            next: Instant::now() + offset,
            interval,
        })
    }

    /// Waits for the next request to be due, and says when it was: in the past, if the lane is behind.
    pub(super) async fn next(&mut self) -> io::Result<Instant> {
        let due = self.next;
        self.next += self.interval;
        let wait = due.saturating_duration_since(Instant::now());
        // Zero would disarm the timer.
        if !wait.is_zero() {
            self.sleep(wait).await?;
        }
        Ok(due)
    }

    async fn sleep(&self, wait: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
            if let Ok(result) = read {
                return result.map(|_| ());
            }
        }
    }
}
