//! The memory of bodies that are held for agents, of the whole process together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How much may be held, and how much is.
#[derive(Debug)]
pub(crate) struct BufferMemory {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Those whose limit it has a share of.
    beside: Option<Arc<Self>>,
}

/// Copies may take one part of so many of what bodies may.
const PART_OF_COPIES: usize = 8;

impl BufferMemory {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            beside: None,
        }
    }

    /// That of copies that nobody waits for, beside the bodies that requests need: at most an eighth of what these may take,
    /// and nothing more while both together would take more than that. They take nothing from the bodies.
    pub(crate) fn of_copies(bodies: &Arc<Self>) -> Self {
        Self {
            beside: Some(bodies.clone()),
            ..Self::new(0)
        }
    }

    /// How much may be held now.
    fn room(&self) -> usize {
        match &self.beside {
            None => self.limit.load(Relaxed),
            Some(bodies) => {
                let limit = bodies.limit.load(Relaxed);
                (limit / PART_OF_COPIES).min(limit.saturating_sub(bodies.used()))
            }
        }
    }

    /// From now on so many bytes may be held. What is held stays held.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Bytes that are held.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// What one body takes of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    memory: Arc<BufferMemory>,
    bytes: usize,
}

/// All of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Held {
    pub(crate) fn new(memory: &Arc<BufferMemory>) -> Self {
        Self {
            memory: memory.clone(),
            bytes: 0,
        }
    }

    /// How much it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more, or leaves everything as it is.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), Full> {
        let limit = self.memory.room();
        self.memory
            .used
            .fetch_update(Relaxed, Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= limit)
            })
            .map_err(|_| Full)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Held {
    /// Takes more or gives some back, so that it is as much as this; or leaves everything as it is.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes >= self.bytes {
            return self.add(bytes - self.bytes);
        }
        self.memory.used.fetch_sub(self.bytes - bytes, Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back() {
        let memory = Arc::new(BufferMemory::new(10));
        let mut one = Held::new(&memory);
        let mut other = Held::new(&memory);
        assert_eq!(one.add(6), Ok(()));
        assert_eq!(other.add(5), Err(Full));
        assert_eq!(other.add(4), Ok(()));
        assert_eq!(other.add(1), Err(Full));
        drop(one);
        assert_eq!(memory.used(), 4);
        assert_eq!(other.set(3), Ok(()));
        assert_eq!(memory.used(), 3);
        assert_eq!(other.set(11), Err(Full));
        assert_eq!(other.set(4), Ok(()));
        memory.set_limit(3);
        assert_eq!(other.add(1), Err(Full));
        drop(other);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn copies_have_a_share_and_are_the_first_to_go() {
        let memory = Arc::new(BufferMemory::new(80));
        let copies = Arc::new(BufferMemory::of_copies(&memory));
        let mut body = Held::new(&memory);
        let mut copy = Held::new(&copies);
        assert_eq!(copy.add(11), Err(Full));
        assert_eq!(copy.add(6), Ok(()));
        assert_eq!(body.add(75), Ok(()), "bodies have all of their own");
        assert_eq!(copy.add(1), Err(Full), "there is too much already");
        drop(body);
        assert_eq!(copy.add(4), Ok(()));
        memory.set_limit(40);
        assert_eq!(copy.add(1), Err(Full));
    }
}
