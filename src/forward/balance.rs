//! Which of several servers gets a request.

use std::hash::{DefaultHasher, Hash, Hasher};

use schemars::JsonSchema;
use serde::Deserialize;

/// How servers share requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way, by weight.
    LeastRequests,
    /// For each user the same one, or for an agent that acts for none.
    UserHash,
}

/// The order in which servers of these weights have their turns: each as often as its weight says, and never two turns at
/// once where others could be between (smooth weighted round robin).
pub fn turns(weights: &[u32]) -> Vec<usize> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight.checked_div(divisor).unwrap_or(1))).collect();
    let total: i64 = weights.iter().sum();
    let mut credits = vec![0_i64; weights.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        for (credit, weight) in credits.iter_mut().zip(&weights) {
            *credit = credit.saturating_add(*weight);
        }
        // Of several with the same credit the first.
        let richest = credits.iter().enumerate().max_by_key(|(index, credit)| (**credit, std::cmp::Reverse(*index)));
        let Some(index) = richest.map(|(index, _)| index) else { break };
        if let Some(credit) = credits.get_mut(index) {
            *credit = credit.saturating_sub(total);
        }
        order.push(index);
    }
    order
}

const fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    match one.checked_rem(other) {
        None => one,
        Some(rest) => greatest_common_divisor(other, rest),
    }
}

/// A number that stands for `it`, the same in every process.
pub fn seed(it: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    it.hash(&mut hasher);
    hasher.finish()
}

/// How much a key is drawn to a server of this weight: the most drawn to gets it. Where a server comes or goes, only the
/// keys move that it gets or had (weighted rendezvous hashing).
pub fn pull(key: u64, server: u64, weight: u32) -> f64 {
    // More than 0 and less than 1.
    let drawn =
        u32::try_from(seed((key, server)) >> 32).map_or(0.5, |drawn| (f64::from(drawn) + 0.5) / 4_294_967_296.0);
    f64::from(weight) / -drawn.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_their_turns_by_weight_and_spread_out() {
        assert_eq!(turns(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(turns(&[100, 100]), [0, 1]);
        assert_eq!(turns(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[10, 20]), [1, 0, 1]);
        assert_eq!(turns(&[]), Vec::<usize>::new());
    }

    #[test]
    fn keys_are_spread_by_weight_and_only_those_of_a_lost_server_move() {
        let servers = [(seed("a"), 1), (seed("b"), 1), (seed("c"), 2)];
        let chosen = |key: u64, servers: &[(u64, u32)]| {
            let best = servers
                .iter()
                .max_by(|(one, its), (other, others)| pull(key, *one, *its).total_cmp(&pull(key, *other, *others)));
            best.unwrap().0
        };
        let keys = || (0..4000_u64).map(seed);
        let mut counts = [0; 3];
        for key in keys() {
            let server = chosen(key, &servers);
            counts[servers.iter().position(|it| it.0 == server).unwrap()] += 1;
            if server != servers[2].0 {
                assert_eq!(chosen(key, &servers[..2]), server);
            }
        }
        assert!((800..1200).contains(&counts[0]) && (800..1200).contains(&counts[1]), "{counts:?}");
        assert!((1800..2200).contains(&counts[2]), "{counts:?}");
    }
}
