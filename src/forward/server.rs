//! A server of an upstream: how it does, by what it says and by what came of requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use super::{balance::seed, watch::Health};
use crate::base::address::Address;

/// A server of an upstream.
#[derive(Debug)]
pub struct Server {
    address: Address,
    name: Arc<str>,
    weight: u32,
    seed: u64,
    under_way: AtomicUsize,
    /// By what it says when it is asked.
    unwell: AtomicBool,
    /// Good answers in a row while it is unwell, or else bad ones.
    streak: AtomicU32,
    /// In a row, by what came of forwarded requests.
    failures: AtomicU32,
    /// When it is no longer left alone, by its pool's clock; 0 when it is not.
    ejected_until: AtomicU64,
}

/// How a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It gets requests.
    Available,
    /// It says that it is not well, or nothing.
    Unhealthy,
    /// It is left alone for a while, for how it answered.
    Ejected,
}

/// As what a request goes to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The server is one that answers.
    OneOfMany,
    /// By it is seen whether the server, which was left alone, answers again; no other goes there before this time.
    Trial { alone_until: u64 },
}

/// Before all times of a pool's clock but never.
const LONG_AGO: u64 = 1;

impl State {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Available, Self::Unhealthy, Self::Ejected];

    /// As a label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
        }
    }
}

impl Server {
    pub(super) fn new(address: Address, weight: u32) -> Self {
        Self {
            seed: seed(&address),
            name: address.to_string().into(),
            address,
            weight,
            under_way: AtomicUsize::new(0),
            unwell: AtomicBool::new(false),
            streak: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    /// Where it is.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// How records name it.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What stands for it among those that a key is drawn to.
    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Its share.
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// Requests under way to it.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// One more request is under way to it.
    pub(super) fn enter(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(super) fn leave(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// How it does at this time.
    pub(super) fn state(&self, now: u64) -> State {
        if self.unwell.load(Ordering::Relaxed) {
            State::Unhealthy
        } else if self.ejected_until.load(Ordering::Relaxed) > now {
            State::Ejected
        } else {
            State::Available
        }
    }

    /// Notes what came of asking it how it is, and returns whether that changes what it is taken for. The first answer of all
    /// decides at once.
    pub fn note_health(&self, good: bool, first: bool, health: &Health) -> bool {
        let unwell = self.unwell.load(Ordering::Relaxed);
        if good != unwell {
            self.streak.store(0, Ordering::Relaxed);
            return false;
        }
        let streak = self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let due = first || streak >= if good { health.healthy_after } else { health.unhealthy_after };
        if due {
            self.streak.store(0, Ordering::Relaxed);
            self.unwell.store(!good, Ordering::Relaxed);
        }
        due
    }

    /// Whether it was left alone, and nothing is known yet of how it answers since.
    pub(super) fn is_on_trial(&self) -> bool {
        !self.unwell.load(Ordering::Relaxed) && self.ejected_until.load(Ordering::Relaxed) != 0
    }

    /// As what a request goes to it, if one may. After it was left alone one may at first, until it is known how that is
    /// answered; each other may not before `alone_until`.
    pub(super) fn claim(&self, alone_until: u64) -> Option<Claim> {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == 0 {
            return Some(Claim::OneOfMany);
        }
        let claimed = self.ejected_until.compare_exchange(until, alone_until, Ordering::Relaxed, Ordering::Relaxed);
        claimed.ok().map(|_| Claim::Trial { alone_until })
    }

    /// A trial ended, and nobody knows how it would have been answered: the next request is one.
    pub(super) fn untried(&self, alone_until: u64) {
        // It may be that others have tried it since.
        let _ = self.ejected_until.compare_exchange(alone_until, LONG_AGO, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// It has answered.
    pub(super) fn succeeded(&self) {
        // Read before they are written: most often there is nothing to forget, and others read them too.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.ejected_until.load(Ordering::Relaxed) != 0 {
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// It has not answered, or not as one that works: for how many requests in a row.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Leaves it alone no longer, whatever it did.
    pub(super) fn readmit(&self) {
        self.ejected_until.store(0, Ordering::Relaxed);
    }

    /// Leaves it alone. Returns until when it was before.
    pub(super) fn eject(&self, until: u64) -> u64 {
        self.ejected_until.swap(until, Ordering::Relaxed)
    }
}
