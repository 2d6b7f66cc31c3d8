//! A limited number of places for work of one kind, shared so that no holder can take all of them.
//!
//! The fewer places are free, the fewer a holder may have: a single holder can take seven tenths, the next one a sixth; the
//! last free places are given one to each holder. A holder without a place gets one as long as any is free. No places are
//! reserved, and nothing has to be configured.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

/// The number of places that a holder may have while `free` of `capacity` are free. Quadratic, so that places remain after
/// many holders have taken all they can; with a plain proportion, six holders would take all.
fn share(free: usize, capacity: usize) -> usize {
    (8 * free * free / capacity).max(1)
}

/// A number of places, and the number that each holder has taken.
pub struct Shares<K> {
    capacity: usize,
    taken: Mutex<Taken<K>>,
}

struct Taken<K> {
    total: usize,
    by_holder: HashMap<K, usize, RandomState>,
}

/// The holder already has its share of the places, or none is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no place is left for this holder")]
pub struct NoPlace;

/// One place; returned when dropped.
pub struct Place<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    holder: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Creates `capacity` free places.
    pub fn new(capacity: usize) -> Arc<Self> {
        let taken = Mutex::new(Taken { total: 0, by_holder: HashMap::default() });
        Arc::new(Self { capacity, taken })
    }

    /// Takes a place for `holder`.
    ///
    /// # Errors
    /// [`NoPlace`]: none is free, or `holder` has its share.
    pub fn take(self: &Arc<Self>, holder: K) -> Result<Place<K>, NoPlace> {
        let taken = &mut *self.taken();
        let free = self.capacity.saturating_sub(taken.total);
        if free == 0 {
            return Err(NoPlace);
        }
        // With a place free, a holder without one gets it: nothing is left behind by a refusal.
        let held = taken.by_holder.entry(holder.clone()).or_insert(0);
        if *held >= share(free, self.capacity) {
            return Err(NoPlace);
        }
        *held += 1;
        taken.total += 1;
        Ok(Place { shares: Arc::clone(self), holder })
    }
}

impl<K> Shares<K> {
    /// Nothing can panic while the counts are being changed, so they are consistent in a poisoned lock too.
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.total = taken.total.saturating_sub(1);
        match taken.by_holder.get_mut(&self.holder) {
            Some(held @ 2..) => *held -= 1,
            _ => drop(taken.by_holder.remove(&self.holder)),
        }
    }
}

/// Shows counts, not holders.
impl<K> fmt::Debug for Shares<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.taken().total;
        f.debug_struct("Shares").field("capacity", &self.capacity).field("taken", &taken).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash> fmt::Debug for Place<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.shares).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes places for `holder` until none is left for it.
    fn hoard(shares: &Arc<Shares<u8>>, holder: u8) -> Vec<Place<u8>> {
        std::iter::from_fn(|| shares.take(holder).ok()).collect()
    }

    #[test]
    fn a_single_holder_can_take_seven_tenths() {
        for (capacity, most) in [(1, 1), (2, 2), (4, 3), (100, 71), (1024, 721)] {
            assert_eq!(hoard(&Shares::new(capacity), 1).len(), most, "of {capacity}");
        }
    }

    ///
    #[test]
    fn a_newcomer_gets_a_place_however_many_holders_hoard() {
        let shares = Shares::new(1024);
        let mut held = Vec::new();
        for holder in 0..24 {
            let share = hoard(&shares, holder);
            assert!(!share.is_empty(), "number {holder} got none");
            held.push(share);
        }
        drop(held.swap_remove(0));
        assert!(hoard(&shares, 255).len() > 400, "returned places can be taken by others");
    }

    proptest! {
        /// For any sequence of takes and returns by any holders.
        #[test]
        fn counts_are_right_and_no_holder_takes_the_last_place_of_others(
            capacity in 1_usize..64,
            steps in prop::collection::vec((0..6_u8, any::<prop::sample::Index>(), any::<bool>()), 0..400),
        ) {
            let shares = Shares::new(capacity);
            let mut held: Vec<(u8, Place<u8>)> = Vec::new();
            for (holder, at, take) in steps {
                if take {
                    let (free, mine) = (capacity - held.len(), held.iter().filter(|(by, _)| *by == holder).count());
                    let place = shares.take(holder);
                    prop_assert!(place.is_err() || free > 0);
                    prop_assert!(place.is_ok() || free == 0 || mine > 0, "a holder without a place gets one");
                    prop_assert!(place.is_ok() || mine + free < capacity || 2 * mine > capacity, "alone it has more than half");
                    held.extend(place.ok().map(|place| (holder, place)));
                } else if !held.is_empty() {
                    drop(held.swap_remove(at.index(held.len())));
                }
                prop_assert_eq!(shares.taken().total, held.len());
                prop_assert_eq!(shares.taken().by_holder.values().sum::<usize>(), held.len());
            }
        }
    }
}
