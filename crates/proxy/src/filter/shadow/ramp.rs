//! For whom a shadow agent is obeyed: a share of the clients, until it fails too often. Pure: time is an argument.

use fnv::FnvHasher;
use portcullis_config::{Fallback, Share};
use std::{
    hash::Hasher,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Where a client stands among all: 0 to 9999. A share takes those below it, so that a larger one only adds clients.
///
/// It is the 64-bit FNV-1a hash of the address, modulo 10 000: of the four bytes of an IPv4 address, also one that is mapped
/// into IPv6, or of the first eight of an IPv6 address, since whoever has one address of a /64 has all of them. Nothing else
/// goes in, so all processes agree and a client never changes its place.
pub(super) fn place_of(client: IpAddr) -> u16 {
    let mut hasher = FnvHasher::default();
    match client.to_canonical() {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()[..8]),
    }
    // Below 10 000, so it fits.
    u16::try_from(hasher.finish() % u64::from(Share::WHOLE)).unwrap_or_default()
}

/// A share of clients, and how the agent does with them.
#[derive(Debug)]
pub(super) struct Ramp {
    settings: portcullis_config::Ramp,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    calls: u32,
    failures: u32,
    fallen_until: Option<Instant>,
}

/// The agent is obeyed for nobody from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fell {
    pub(super) failures: u32,
    pub(super) calls: u32,
}

impl Ramp {
    pub(super) fn new(settings: portcullis_config::Ramp) -> Self {
        Self {
            settings,
            window: Mutex::default(),
        }
    }

    pub(super) const fn share(&self) -> Share {
        self.settings.share
    }

    pub(super) const fn fallback(&self) -> Fallback {
        self.settings.fallback
    }

    /// Whether the agent's verdict holds for this client.
    pub(super) fn takes(&self, client: IpAddr, now: Instant) -> bool {
        place_of(client) < self.settings.share.hundredths() && !self.has_fallen(now)
    }

    /// Whether it is obeyed for nobody, because it failed too often.
    pub(super) fn has_fallen(&self, now: Instant) -> bool {
        let mut window = self.window();
        match window.fallen_until {
            None => false,
            Some(end) if now < end => true,
            Some(_) => {
                *window = Window::default();
                false
            }
        }
    }

    /// Counts a call. Windows follow one another; one ends early when so many of its calls have failed that it cannot come
    /// out below the share.
    pub(super) fn count(&self, failed: bool, now: Instant) -> Option<Fell> {
        let Fallback {
            failures,
            calls,
            lasts,
        } = self.settings.fallback;
        let mut window = self.window();
        if window.fallen_until.is_some_and(|end| now < end) {
            return None;
        }
        window.calls += 1;
        window.failures += u32::from(failed);
        let most = u64::from(calls) * u64::from(failures.hundredths());
        if failed && u64::from(window.failures) * u64::from(Share::WHOLE) >= most {
            let fell = Fell {
                failures: window.failures,
                calls: window.calls,
            };
            *window = Window {
                fallen_until: Some(now + lasts),
                ..Window::default()
            };
            return Some(fell);
        }
        if window.calls >= calls {
            *window = Window::default();
        }
        None
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{net::Ipv4Addr, time::Duration};

    fn ramp(share: u16, failures: u16, calls: u32) -> Ramp {
        Ramp::new(portcullis_config::Ramp {
            share: Share::of_hundredths(share),
            fallback: Fallback {
                failures: Share::of_hundredths(failures),
                calls,
                lasts: Duration::from_secs(60),
            },
        })
    }

    #[test]
    fn places_are_the_same_everywhere_and_for_ever() {
        for (client, place) in [
            ("127.0.0.1", 637),
            ("::ffff:127.0.0.1", 637),
            ("192.0.2.7", 910),
            ("2001:db8:1:2::1", 9442),
            ("2001:db8:1:2:ffff::", 9442),
        ] {
            assert_eq!(place_of(client.parse().unwrap()), place, "{client}");
        }
    }

    #[test]
    fn a_share_is_about_that_share_of_neighbours() {
        for share in [100, 500, 2_500, 5_000] {
            let network = (0..=u16::MAX).map(|host| {
                let [high, low] = host.to_be_bytes();
                IpAddr::V4(Ipv4Addr::new(10, 1, high, low))
            });
            let taken = network.filter(|client| place_of(*client) < share).count();
            let expected = usize::from(share) * 65_536 / 10_000;
            let off = taken.abs_diff(expected);
            assert!(off * 20 <= expected, "{taken} of {expected}");
        }
    }

    #[test]
    fn too_many_failures_end_it_for_a_while() {
        let ramp = ramp(10_000, 1_000, 20);
        let client = "192.0.2.7".parse().unwrap();
        let start = Instant::now();
        assert_eq!(ramp.count(true, start), None);
        // The window ends with its twentieth call, and what was in it is forgotten.
        for _ in 0..19 {
            assert_eq!(ramp.count(false, start), None);
        }
        assert_eq!(ramp.count(true, start), None);
        assert!(ramp.takes(client, start));
        let fell = Fell {
            failures: 2,
            calls: 2,
        };
        assert_eq!(ramp.count(true, start), Some(fell));
        assert!(!ramp.takes(client, start));
        assert_eq!(ramp.count(true, start), None, "it is said once");
        let end = start + Duration::from_secs(60);
        assert!(!ramp.takes(client, end - Duration::from_millis(1)));
        assert!(ramp.takes(client, end));
        assert_eq!(ramp.count(true, end), None, "it begins anew");
    }

    proptest! {
        #[test]
        fn a_larger_share_only_adds_clients(bytes: [u8; 16], one in 0u16..=10_000, other in 0u16..=10_000) {
            let client = IpAddr::from(bytes);
            let (less, more) = (one.min(other), one.max(other));
            let now = Instant::now();
            let takes = |share| ramp(share, 1_000, 100).takes(client, now);
            prop_assert!(!takes(less) || takes(more));
            prop_assert!(takes(10_000) && !takes(0));
        }
    }
}
