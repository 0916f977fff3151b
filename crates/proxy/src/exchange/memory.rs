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
}

impl BufferMemory {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
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

    /// Takes more, or leaves everything as it is.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), Full> {
        let limit = self.memory.limit.load(Relaxed);
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
}
