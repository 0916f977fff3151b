//! The guard of a call: what is held while the agent may work on an event.

use std::fmt;

/// Something that lives as long as an agent may be working on an event, such
/// as a permit that bounds how many events the agent has at once.
///
/// It is dropped when the answer arrives, also a late one that nobody waits
/// for any longer, when the connection is gone, and when the event could not
/// be queued at all. A caller that stops waiting does not end the agent's
/// work, and so does not end the guard either.
///
/// What is dropped runs on the connection's driver or on the caller, never
/// under a lock of the connection.
#[derive(Default)]
pub struct CallGuard(Option<Box<dyn Send + Sync>>);

impl CallGuard {
    /// Nothing is held. Costs no allocation.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Holds this value. Costs one allocation of its size.
    #[must_use]
    pub fn new(value: impl Send + Sync + 'static) -> Self {
        Self(Some(Box::new(value)))
    }
}

impl fmt::Debug for CallGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = if self.0.is_some() { "held" } else { "none" };
        f.debug_tuple("CallGuard").field(&held).finish()
    }
}
