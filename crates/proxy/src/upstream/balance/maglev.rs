//! Consistent hashing by a table (Eisenbud et al., "Maglev", 2016, section 3.4): every target goes through the places of a table in
//! an order of its own and takes the next free one when it is its turn, until all are taken. A key is looked up in one step, and
//! shares are more even than on a ring; one that comes or goes moves a few keys between others, too.

use super::{Field, mix, scaled};

/// Places of the table, a prime: every target's order goes through all of them.
const PLACES: u64 = 65_537;
/// Other places that are looked at when a key's target must not be taken, before any that may will do.
const MOST_REHASHES: u64 = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Maglev {
    /// Positions of targets.
    table: Box<[u32]>,
}

impl Maglev {
    /// `names` are hashes of the targets' names.
    pub(super) fn new(names: &[u64], weights: &[u32]) -> Self {
        if names.is_empty() {
            return Self {
                table: Box::default(),
            };
        }
        let weights = scaled(weights, PLACES);
        let heaviest = weights.iter().copied().max().unwrap_or(1);
        let numbered = names.iter().zip(weights).zip(0_u32..);
        let mut ways: Vec<Way> = numbered
            .map(|((name, weight), position)| Way::new(*name, weight, position))
            .collect();
        // Whose turn comes first must not depend on how the targets were found.
        ways.sort_unstable_by_key(|way| way.name);
        let mut table: Vec<Option<u32>> = vec![None; PLACES as usize];
        let mut left = table.len();
        while left > 0 {
            for way in &mut ways {
                // The heaviest takes a place in every round, others in their part of the rounds.
                way.credit += way.weight;
                if way.credit < heaviest || left == 0 {
                    continue;
                }
                way.credit -= heaviest;
                way.take(&mut table);
                left -= 1;
            }
        }
        Self {
            table: table.into_iter().flatten().collect(),
        }
    }

    pub(super) fn pick(&self, field: &Field<'_>, key: u64) -> Option<usize> {
        let places = self.table.len() as u64;
        if places == 0 {
            return None;
        }
        let at = |key: u64| self.table[(key % places) as usize] as usize;
        let first = at(key);
        if field.is_usable(first) {
            return Some(first);
        }
        // The keys of a target that is away are spread over all others, each key always to the same one.
        (1..=MOST_REHASHES)
            .map(|number| at(mix(key.wrapping_add(number))))
            .find(|position| field.is_usable(*position))
            .or_else(|| field.usable().next())
    }
}

/// The order in which a target goes through the table.
struct Way {
    name: u64,
    weight: u64,
    position: u32,
    next: u64,
    step: u64,
    credit: u64,
}

impl Way {
    const fn new(name: u64, weight: u64, position: u32) -> Self {
        Self {
            name,
            weight,
            position,
            next: mix(name ^ 1) % PLACES,
            step: mix(name ^ 2) % (PLACES - 1) + 1,
            credit: 0,
        }
    }

    /// Takes the next free place. There is one.
    fn take(&mut self, table: &mut [Option<u32>]) {
        for _ in 0..PLACES {
            let place = self.next as usize;
            self.next = (self.next + self.step) % PLACES;
            if table[place].is_none() {
                table[place] = Some(self.position);
                return;
            }
        }
    }
}
