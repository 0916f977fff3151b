//! How many may be about to register at one place, in all and of one client.
//!
//! Whoever comes gets a place, and where there is none left somebody gives way who has been there longer and has not said yet who it
//! is. So those who come and say nothing keep nobody waiting, and whoever has taken many places gives way first.

use super::super::limits::client_group;
use portcullis_config::Registering;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Who has come, as far as that is known before a word is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// At a socket: the user that it is.
    User(u32),
    /// At an address: whose network it comes from.
    Network(IpAddr),
}

/// The places of those who are about to register.
#[derive(Debug)]
pub(super) struct Places(Mutex<State>);

#[derive(Debug)]
struct State {
    bounds: Registering,
    next: u64,
    /// In the order in which they were taken.
    taken: BTreeMap<u64, Taken>,
}

#[derive(Debug)]
struct Taken {
    client: Client,
    give_way: oneshot::Sender<()>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
}

/// Tells the one who has a place that it has to give way.
#[derive(Debug)]
pub(super) struct GivesWay(oneshot::Receiver<()>);

impl Client {
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Network(client_group(address))
    }
}

impl Places {
    pub(super) const fn new(bounds: Registering) -> Self {
        Self(Mutex::new(State {
            bounds,
            next: 0,
            taken: BTreeMap::new(),
        }))
    }

    /// From now on there may be this many. Those who are there stay until somebody else comes.
    pub(super) fn set_bounds(&self, bounds: Registering) {
        self.lock().bounds = bounds;
    }

    /// A place for one that has come, and how many have to give way to it.
    pub(super) fn take(self: &Arc<Self>, client: Client) -> (Place, GivesWay, usize) {
        let (give_way, gives_way) = oneshot::channel();
        let mut state = self.lock();
        let mut gone = 0;
        while let Some(number) = state.in_the_way_of(client) {
            if let Some(taken) = state.taken.remove(&number) {
                // It may be about to end by itself.
                let _ = taken.give_way.send(());
            }
            gone += 1;
        }
        let number = state.next;
        state.next += 1;
        state.taken.insert(number, Taken { client, give_way });
        drop(state);
        let places = Arc::clone(self);
        (Place { places, number }, GivesWay(gives_way), gone)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step, so a poisoned lock loses nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who has to go before there is a place for this client: of its own the oldest if it has as many as it may have, else the oldest
    /// of the client that has most.
    fn in_the_way_of(&self, client: Client) -> Option<u64> {
        let of_client = |(_, it): &(&u64, &Taken)| it.client == client;
        let own = self.taken.iter().filter(of_client);
        if own.clone().count() >= self.bounds.per_client {
            return own.map(|(number, _)| *number).next();
        }
        if self.taken.len() < self.bounds.all {
            return None;
        }
        let mut counts: HashMap<Client, usize> = HashMap::new();
        for it in self.taken.values() {
            *counts.entry(it.client).or_default() += 1;
        }
        // Of several that are alike the last counts, which is the oldest from behind.
        let from_behind = self.taken.iter().rev();
        let most = from_behind.max_by_key(|(_, it)| counts.get(&it.client));
        most.map(|(number, _)| *number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().taken.remove(&self.number);
    }
}

impl GivesWay {
    /// Resolves when its place is wanted by another, and never once the place was given back.
    pub(super) async fn wanted(self) {
        if self.0.await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Client::User;

    fn places(all: usize, per_client: usize) -> Arc<Places> {
        Arc::new(Places::new(Registering { all, per_client }))
    }

    /// Takes places one after the other; who has one in the end, by the number of its arrival.
    fn left(all: usize, per_client: usize, clients: &[u32]) -> Vec<usize> {
        let places = places(all, per_client);
        let taken = clients.iter().map(|uid| places.take(User(*uid)));
        let mut taken: Vec<_> = taken.collect();
        let stays = |(_, gives_way, _): &mut (Place, GivesWay, usize)| {
            matches!(
                gives_way.0.try_recv(),
                Err(oneshot::error::TryRecvError::Empty)
            )
        };
        let arrivals = taken.iter_mut().enumerate();
        let left = arrivals.filter_map(|(number, it)| stays(it).then_some(number));
        left.collect()
    }

    #[test]
    fn who_gives_way() {
        for (name, all, per_client, clients, wanted) in [
            ("there is room", 4, 2, &[1, 1, 2, 2][..], &[0, 1, 2, 3][..]),
            ("its own bound", 4, 2, &[1, 1, 2, 1, 1], &[2, 3, 4]),
            ("who has most", 4, 3, &[1, 2, 2, 2, 3], &[0, 2, 3, 4]),
            ("the oldest of equals", 2, 2, &[1, 2, 3, 4], &[2, 3]),
            ("one place", 1, 1, &[1, 1, 2], &[2]),
        ] {
            assert_eq!(left(all, per_client, clients), wanted, "{name}");
        }
    }

    #[test]
    fn places_come_back_and_bounds_change() {
        let places = places(2, 2);
        let (first, _, gone) = places.take(User(1));
        let (_second, _, _) = places.take(User(1));
        assert_eq!(gone, 0);
        drop(first);
        let (third, _, gone) = places.take(User(2));
        assert_eq!(gone, 0);
        places.set_bounds(Registering {
            all: 1,
            per_client: 1,
        });
        let (_fourth, _, gone) = places.take(User(3));
        assert_eq!((gone, places.lock().taken.len()), (2, 1));
        // It has given way already.
        drop(third);
        assert_eq!(places.lock().taken.len(), 1);
    }

    #[tokio::test]
    async fn who_has_given_its_place_back_stays() {
        let places = places(1, 1);
        let (place, stays, _) = places.take(User(1));
        drop(place);
        let (_place, gives_way, gone) = places.take(User(1));
        let (_last, _, after) = places.take(User(1));
        assert_eq!((gone, after), (0, 1));
        gives_way.wanted().await;
        tokio::select! {
            biased;
            () = stays.wanted() => panic!("it has no place to give"),
            () = std::future::ready(()) => {}
        }
    }

    #[test]
    fn clients_of_one_network_are_one() {
        let at = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::2"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }
}
