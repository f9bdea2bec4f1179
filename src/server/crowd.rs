//! How many connections each address has open.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::base::address::network;

/// Those that are there. There are no more entries than connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd(Arc<Mutex<HashMap<Option<IpAddr>, usize>>>);

/// A connection that is counted, until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    crowd: Crowd,
    from: Option<IpAddr>,
}

impl Crowd {
    /// Counts one more from `peer`, where it has not `max` already. All whose address nobody knows are one, and so are those of
    /// one network in IPv6.
    pub(super) fn admit(&self, peer: Option<IpAddr>, max: usize) -> Option<Counted> {
        let from = peer.map(network);
        let mut crowd = self.lock();
        let open = crowd.get(&from).copied().unwrap_or_default();
        if open >= max {
            return None;
        }
        crowd.insert(from, open.saturating_add(1));
        Some(Counted { crowd: self.clone(), from })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Entry::Occupied(mut open) = self.crowd.lock().entry(self.from) {
            *open.get_mut() = open.get().saturating_sub(1);
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_own_count_and_leaves_nothing_behind() {
        let crowd = Crowd::default();
        let from = |text: &str| crowd.admit(Some(text.parse().unwrap()), 2);
        let held =
            [from("192.0.2.1"), from("192.0.2.1"), from("192.0.2.2"), from("2001:db8::1"), from("2001:db8::2:1")];
        assert!(held.iter().all(Option::is_some));
        assert!(from("::ffff:192.0.2.1").is_none() && from("2001:db8::3").is_none());
        assert!(from("2001:db8:0:1::1").is_some(), "another network");
        assert!(
            crowd.admit(None, 1).is_some_and(|_| crowd.admit(None, 1).is_none()),
            "those without an address are one"
        );
        drop(held);
        assert!(from("192.0.2.1").is_some());
        assert!(crowd.lock().is_empty());
    }
}
