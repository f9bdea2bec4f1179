//! Which proofs were seen already, bounded in memory. Two generations, each as long as a proof can be valid: when one has
//! had its time it becomes the older, and the older is forgotten. Time here is that of a clock that never goes back.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Proofs that a generation remembers. 16 bytes each: two full generations take some 40 MiB.
const PROOFS_MAX: usize = 500_000;

/// The part of them that one agent may take, so that none can leave the others without.
const SHARE: usize = 8;

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
    room: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    horizon: Duration,
    began: Instant,
    young: HashSet<ProofId>,
    old: HashSet<ProofId>,
    /// How many of the young ones are whose.
    by_agent: HashMap<String, usize>,
}

impl Replays {
    /// Remembers each proof from now on for at least `horizon` too.
    pub(super) fn reach(&self, horizon: Duration) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.horizon = generations.horizon.max(horizon);
    }

    /// Remembers each proof for at least `horizon`.
    pub(super) fn new(horizon: Duration) -> Self {
        Self::with_room(horizon, PROOFS_MAX, Instant::now())
    }

    fn with_room(horizon: Duration, room: usize, began: Instant) -> Self {
        let generations =
            Generations { horizon, began, young: HashSet::new(), old: HashSet::new(), by_agent: HashMap::new() };
        Self { room, generations: Mutex::new(generations) }
    }

    /// Notes a proof of `agent`.
    pub(super) fn sight(&self, proof: ProofId, agent: &str, now: Instant) -> Sighting {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.age(now);
        if generations.old.contains(&proof) || generations.young.contains(&proof) {
            return Sighting::Again;
        }
        let taken = generations.by_agent.get(agent).copied().unwrap_or_default();
        if generations.young.len() >= self.room || taken >= self.room / SHARE {
            return Sighting::NoRoom;
        }
        generations.young.insert(proof);
        generations.by_agent.insert(agent.to_owned(), taken.saturating_add(1));
        Sighting::First
    }
}

impl Generations {
    fn age(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age < self.horizon {
            return;
        }
        self.old = mem::take(&mut self.young);
        self.by_agent.clear();
        if age >= self.horizon.saturating_mul(2) {
            self.old.clear();
        }
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_remembered_for_as_long_as_it_can_be_valid() {
        let began = Instant::now();
        let replays = Replays::with_room(Duration::from_secs(70), PROOFS_MAX, began);
        let at = |seconds| began + Duration::from_secs(seconds);
        for start in [0, 69, 140, 500, 555] {
            let proof = [u8::try_from(start % 251).unwrap(); 16];
            assert_eq!(replays.sight(proof, "a", at(start)), Sighting::First, "{start}");
            for later in [0, 1, 69, 70] {
                assert_eq!(replays.sight(proof, "a", at(start + later)), Sighting::Again, "{start} + {later}");
            }
        }
    }

    #[test]
    fn a_longer_horizon_holds_for_what_is_still_remembered() {
        let began = Instant::now();
        let replays = Replays::with_room(Duration::from_secs(70), PROOFS_MAX, began);
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(replays.sight([1; 16], "a", at(60)), Sighting::First);
        replays.reach(Duration::from_secs(200));
        replays.reach(Duration::from_secs(10));
        for later in [130, 199, 260, 399] {
            assert_eq!(replays.sight([1; 16], "a", at(later)), Sighting::Again, "{later}");
        }
    }

    #[test]
    fn without_room_nothing_is_forgotten_before_its_time() {
        let began = Instant::now();
        let replays = Replays::with_room(Duration::from_secs(70), 2 * SHARE, began);
        let at = |seconds| began + Duration::from_secs(seconds);
        let sight = |proof: u8, agent: &str, seconds| replays.sight([proof; 16], agent, at(seconds));
        assert_eq!([1, 2, 3].map(|proof| sight(proof, "a", 0)), [Sighting::First, Sighting::First, Sighting::NoRoom]);
        assert_eq!(sight(3, "b", 0), Sighting::First, "another agent has room of its own");
        assert_eq!([1, 2].map(|proof| sight(proof, "a", 1)), [Sighting::Again; 2]);
        let others = (10..30).map(|proof| sight(proof, &format!("agent {proof}"), 2));
        assert_eq!(others.filter(|sighting| *sighting == Sighting::First).count(), 2 * SHARE - 3);
        assert_eq!(sight(4, "a", 71), Sighting::First);
        assert_eq!(replays.generations.lock().unwrap().old.len(), 2 * SHARE);
        assert_eq!(sight(5, "a", 300), Sighting::First);
        assert_eq!(replays.generations.lock().unwrap().old.len(), 0);
    }
}
