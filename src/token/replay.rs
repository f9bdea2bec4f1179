//! Which proofs were seen already, bounded in memory. Two generations, each as long as a proof can be valid: when one is
//! full of time it becomes the older, and the older is forgotten.

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::base::clock::Timestamp;

/// Proofs that a generation remembers. 16 bytes each: two full generations take some 40 MiB.
const PROOFS_MAX: usize = 500_000;

/// A proof, by the half of a SHA-256.
pub(super) type ProofId = [u8; 16];

/// What is known of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    /// It was not seen before, and is remembered now.
    First,
    /// It was seen before.
    Again,
    /// There is no room to remember it. Forgetting another would let that one be replayed.
    NoRoom,
}

/// The proofs seen of late.
#[derive(Debug)]
pub(super) struct Replays {
    horizon: Duration,
    room: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    began: Timestamp,
    young: HashSet<ProofId>,
    old: HashSet<ProofId>,
}

impl Replays {
    /// Remembers each proof for at least `horizon`.
    pub(super) fn new(horizon: Duration) -> Self {
        Self::with_room(horizon, PROOFS_MAX)
    }

    fn with_room(horizon: Duration, room: usize) -> Self {
        let began = Timestamp::from_seconds(0);
        let generations = Generations { began, young: HashSet::new(), old: HashSet::new() };
        Self { horizon, room, generations: Mutex::new(generations) }
    }

    /// Notes a proof.
    pub(super) fn sight(&self, proof: ProofId, now: Timestamp) -> Sighting {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.age(self.horizon, now);
        if generations.old.contains(&proof) || generations.young.contains(&proof) {
            Sighting::Again
        } else if generations.young.len() >= self.room {
            Sighting::NoRoom
        } else {
            generations.young.insert(proof);
            Sighting::First
        }
    }
}

impl Generations {
    fn age(&mut self, horizon: Duration, now: Timestamp) {
        let end = self.began.later(horizon);
        if now < end {
            return;
        }
        self.old = mem::take(&mut self.young);
        if now >= end.later(horizon) {
            self.old.clear();
        }
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1_000 + seconds)
    }

    #[test]
    fn a_proof_is_remembered_for_as_long_as_it_can_be_valid() {
        let replays = Replays::new(Duration::from_secs(70));
        for start in [0, 69, 140, 500, 555] {
            let proof = [u8::try_from(start % 251).unwrap(); 16];
            assert_eq!(replays.sight(proof, at(start)), Sighting::First, "{start}");
            for later in [0, 1, 69, 70] {
                assert_eq!(replays.sight(proof, at(start + later)), Sighting::Again, "{start} + {later}");
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_forgets_nothing() {
        let replays = Replays::new(Duration::from_secs(70));
        assert_eq!(replays.sight([1; 16], at(500)), Sighting::First);
        assert_eq!(replays.sight([1; 16], at(0)), Sighting::Again);
    }

    #[test]
    fn without_room_nothing_is_forgotten_before_its_time() {
        let replays = Replays::with_room(Duration::from_secs(70), 2);
        assert_eq!(
            [[1; 16], [2; 16], [3; 16]].map(|proof| replays.sight(proof, at(0))),
            [Sighting::First, Sighting::First, Sighting::NoRoom]
        );
        assert_eq!([[1; 16], [2; 16]].map(|proof| replays.sight(proof, at(1))), [Sighting::Again; 2]);
        assert_eq!(replays.sight([3; 16], at(71)), Sighting::First);
        assert_eq!(replays.generations.lock().unwrap().old.len(), 2);
        assert_eq!(replays.sight([4; 16], at(300)), Sighting::First);
        assert_eq!(replays.generations.lock().unwrap().old.len(), 0);
    }
}
