//! The memory of bodies that are held for agents, of the whole process together.
//!
//! Each client has a share of it, so that one alone cannot take all of it with many requests. A single request may take more than
//! the share as long as its client has no other: how large one body may be is said elsewhere.

use crate::server::limits::client_group;
use portcullis_config::Share;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// How much may be held, and how much is.
#[derive(Debug)]
pub(crate) struct BufferMemory {
    limit: AtomicUsize,
    used: AtomicUsize,
    whose: Whose,
}

#[derive(Debug)]
enum Whose {
    Process(Clients),
    /// Of copies, beside the bodies whose limit they have a share of.
    Copies(Arc<BufferMemory>),
    /// What one request takes of all of it.
    Request {
        all: Arc<BufferMemory>,
        client: Arc<Client>,
    },
}

/// Those who have requests that may hold something.
#[derive(Debug, Default)]
struct Clients {
    /// What each of them may take, in bytes.
    most: AtomicUsize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    clients: HashMap<IpAddr, Weak<Client>>,
    /// Those that have gone are cleared away when there are so many.
    clear_at: usize,
}

/// All requests of a client together.
#[derive(Debug, Default)]
struct Client {
    used: AtomicUsize,
}

/// Clients up to which nothing is cleared away.
const FEW_CLIENTS: usize = 64;

impl Clients {
    fn find(&self, address: IpAddr) -> Arc<Client> {
        let group = client_group(address);
        // Every change is whole, so a poisoned lock loses nothing.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.clients.get(&group).and_then(Weak::upgrade) {
            return client;
        }
        if known.clients.len() >= known.clear_at {
            known.clients.retain(|_, client| client.strong_count() > 0);
            known.clear_at = (2 * known.clients.len()).max(FEW_CLIENTS);
        }
        let client = Arc::new(Client::default());
        known.clients.insert(group, Arc::downgrade(&client));
        client
    }
}

/// Copies may take one part of so many of what bodies may.
const PART_OF_COPIES: usize = 8;

impl BufferMemory {
    pub(crate) fn new(limit: usize, per_client: Share) -> Self {
        let memory = Self::of(Whose::Process(Clients::default()));
        memory.set_limit(limit, per_client);
        memory
    }

    fn of(whose: Whose) -> Self {
        Self {
            limit: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            whose,
        }
    }

    /// That of a request of this client.
    pub(crate) fn of_request(all: &Arc<Self>, address: IpAddr) -> Arc<Self> {
        match &all.whose {
            Whose::Process(clients) => Arc::new(Self::of(Whose::Request {
                all: all.clone(),
                client: clients.find(address),
            })),
            Whose::Copies(_) | Whose::Request { .. } => all.clone(),
        }
    }

    /// That of copies that nobody waits for, beside the bodies that requests need: at most an eighth of what these may take,
    /// and nothing more while both together would take more than that. They take nothing from the bodies.
    pub(crate) fn of_copies(bodies: &Arc<Self>) -> Self {
        Self::of(Whose::Copies(bodies.clone()))
    }

    /// From now on so many bytes may be held, and this share of them by each client. What is held stays held.
    pub(crate) fn set_limit(&self, limit: usize, per_client: Share) {
        self.limit.store(limit, Relaxed);
        if let Whose::Process(clients) = &self.whose {
            let step = limit / usize::from(Share::WHOLE);
            let rest = limit % usize::from(Share::WHOLE);
            let steps = usize::from(per_client.hundredths());
            let most = step * steps + rest * steps / usize::from(Share::WHOLE);
            clients.most.store(most, Relaxed);
        }
    }

    fn take(&self, bytes: usize) -> Result<(), Full> {
        let limit = match &self.whose {
            Whose::Process(_) => self.limit.load(Relaxed),
            Whose::Copies(bodies) => {
                let limit = bodies.limit.load(Relaxed);
                (limit / PART_OF_COPIES).min(limit.saturating_sub(bodies.used()))
            }
            Whose::Request { all, client } => return self.take_of(all, client, bytes),
        };
        self.used
            .fetch_update(Relaxed, Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= limit)
            })
            .map(|_| ())
            .map_err(|_| Full)
    }

    fn take_of(&self, all: &Self, client: &Client, bytes: usize) -> Result<(), Full> {
        all.take(bytes)?;
        let own = self.used.fetch_add(bytes, Relaxed) + bytes;
        let of_client = client.used.fetch_add(bytes, Relaxed) + bytes;
        let most = match &all.whose {
            Whose::Process(clients) => clients.most.load(Relaxed),
            Whose::Copies(_) | Whose::Request { .. } => usize::MAX,
        };
        if of_client > most && of_client > own {
            self.give_back(bytes);
            return Err(Full);
        }
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
        if let Whose::Request { all, client } = &self.whose {
            client.used.fetch_sub(bytes, Relaxed);
            all.give_back(bytes);
        }
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

/// All of it is in use, or all that the client may have of it.
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
        self.memory.take(bytes)?;
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
        self.memory.give_back(self.bytes - bytes);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Share = Share::of_hundredths(Share::WHOLE);
    const HALF: Share = Share::of_hundredths(Share::WHOLE / 2);

    #[test]
    fn one_client_leaves_room_for_others() {
        let memory = Arc::new(BufferMemory::new(100, HALF));
        let request = |address: &str| BufferMemory::of_request(&memory, address.parse().unwrap());
        let first = request("2001:db8::1");
        let mut body = Held::new(&first);
        assert_eq!(body.add(30), Ok(()));
        // Of the same network, so the same client.
        let mut second = Held::new(&request("2001:db8::2"));
        assert_eq!(second.add(21), Err(Full));
        assert_eq!(second.add(20), Ok(()));
        assert_eq!(body.add(1), Err(Full));
        let mut other = Held::new(&request("192.0.2.1"));
        assert_eq!(other.add(50), Ok(()));
        assert_eq!(memory.used(), 100);
        drop(other);
        drop(second);
        // Alone it may have more, in however many parts.
        let mut changed = Held::new(&first);
        assert_eq!(changed.add(60), Ok(()));
        assert_eq!(changed.add(11), Err(Full), "there is no more");
        assert_eq!(memory.used(), 90);
        assert_eq!(body.set(0), Ok(()));
        drop((body, changed));
        assert_eq!((memory.used(), first.used()), (0, 0));
    }

    #[test]
    fn clients_that_have_gone_are_forgotten() {
        let memory = Arc::new(BufferMemory::new(100, HALF));
        let stays = BufferMemory::of_request(&memory, [192, 0, 2, 1].into());
        for number in 0..10_000_u32 {
            BufferMemory::of_request(&memory, IpAddr::V4(number.into()));
        }
        let Whose::Process(clients) = &memory.whose else {
            unreachable!();
        };
        assert!(clients.known.lock().unwrap().clients.len() <= 2 * FEW_CLIENTS);
        let mut held = Held::new(&stays);
        assert_eq!(held.add(40), Ok(()));
        let again = BufferMemory::of_request(&memory, [192, 0, 2, 1].into());
        assert_eq!(Held::new(&again).add(40), Err(Full));
    }

    #[test]
    fn what_is_held_is_given_back() {
        let memory = Arc::new(BufferMemory::new(10, ALL));
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
        memory.set_limit(3, ALL);
        assert_eq!(other.add(1), Err(Full));
        drop(other);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn copies_have_a_share_and_are_the_first_to_go() {
        let memory = Arc::new(BufferMemory::new(80, ALL));
        let copies = Arc::new(BufferMemory::of_copies(&memory));
        let mut body = Held::new(&memory);
        let mut copy = Held::new(&copies);
        assert_eq!(copy.add(11), Err(Full));
        assert_eq!(copy.add(6), Ok(()));
        assert_eq!(body.add(75), Ok(()), "bodies have all of their own");
        assert_eq!(copy.add(1), Err(Full), "there is too much already");
        drop(body);
        assert_eq!(copy.add(4), Ok(()));
        memory.set_limit(40, ALL);
        assert_eq!(copy.add(1), Err(Full));
    }
}
