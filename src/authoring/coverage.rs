//! What scenarios exercise: policies that determine a decision, routes that are found, and each test of each condition,
//! seen true and seen false.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    entities::RoutePlan,
    policy::{Dissected, Effect, Explanation, Truth, stores::DEFAULT},
    snapshot::Blueprint,
};

/// What was exercised.
#[derive(Debug)]
pub struct Coverage {
    /// By store and id.
    pub policies: BTreeMap<(Arc<str>, String), PolicyCoverage>,
    /// How often each route was found.
    pub routes: BTreeMap<Arc<str>, usize>,
}

/// What was exercised of a policy.
#[derive(Debug)]
pub struct PolicyCoverage {
    /// What it does.
    pub effect: Effect,
    /// Its text.
    pub text: String,
    /// How often it was in scope.
    pub in_scope: usize,
    /// How often it was in scope and erred.
    pub erred: usize,
    /// How often it determined a decision.
    pub determined: usize,
    /// The tests that its conditions are made of.
    pub tests: Vec<TestCoverage>,
}

/// What was seen of a test.
#[derive(Debug)]
pub struct TestCoverage {
    /// It, as Cedar.
    pub text: Arc<str>,
    /// How often it held.
    pub held: usize,
    /// How often it did not.
    pub failed: usize,
}

/// Parts that were exercised, of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Those that were.
    pub done: usize,
    /// All.
    pub all: usize,
}

impl Share {
    fn of(parts: impl Iterator<Item = bool>) -> Self {
        let (mut done, mut all) = (0_usize, 0_usize);
        for part in parts {
            done = done.saturating_add(usize::from(part));
            all = all.saturating_add(1);
        }
        Self { done, all }
    }

    /// In whole percent, rounded down; 100 where there is nothing to do.
    pub const fn percent(self) -> usize {
        match self.done.saturating_mul(100).checked_div(self.all) {
            Some(percent) => percent,
            None => 100,
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.done, self.all)
    }
}

impl PolicyCoverage {
    /// What it did in place of determining a decision.
    pub(super) const fn idle(&self) -> &'static str {
        if self.erred > 0 && self.erred == self.in_scope { "only ever erred" } else { "determined nothing" }
    }
}

impl Coverage {
    /// Of which nothing is exercised yet.
    pub fn of(blueprint: &Blueprint) -> Self {
        let mut policies = BTreeMap::new();
        for store in blueprint.stores.iter() {
            let name: Arc<str> = store.name.clone().unwrap_or_else(|| DEFAULT.into());
            for Dissected { note, effect, text, anatomy } in store.policies.dissected() {
                let tests = anatomy.tests().into_iter();
                let tests = tests.map(|text| TestCoverage { text, held: 0, failed: 0 }).collect();
                let policy = PolicyCoverage { effect, text, in_scope: 0, erred: 0, determined: 0, tests };
                policies.insert((name.clone(), note.id.clone()), policy);
            }
        }
        let routes = blueprint.routes.routes().iter().map(|plan: &RoutePlan| (plan.name().clone(), 0)).collect();
        Self { policies, routes }
    }

    /// Notes what one decision exercised; the policies that `determining` names are those that made it so, none where one
    /// erred.
    pub fn note(
        &mut self,
        route: Option<&str>,
        store: Option<&str>,
        explanation: Option<&Explanation>,
        determining: &[String],
    ) {
        if let Some(hits) = route.and_then(|route| self.routes.get_mut(route)) {
            *hits = hits.saturating_add(1);
        }
        let store: Arc<str> = store.unwrap_or(DEFAULT).into();
        for examined in explanation.iter().flat_map(|it| &it.sides).flat_map(|side| &side.policies) {
            let Some(policy) = self.policies.get_mut(&(store.clone(), examined.note.id.clone())) else { continue };
            if !examined.is_in_scope() {
                continue;
            }
            policy.in_scope = policy.in_scope.saturating_add(1);
            policy.erred = policy.erred.saturating_add(usize::from(matches!(examined.applies, Truth::Error(_))));
            let findings = examined.conditions.iter().flat_map(|part| part.tests());
            for (test, finding) in policy.tests.iter_mut().zip(findings).filter(|(_, finding)| finding.reached) {
                match finding.truth {
                    Truth::True => test.held = test.held.saturating_add(1),
                    Truth::False => test.failed = test.failed.saturating_add(1),
                    Truth::Error(_) => {}
                }
            }
        }
        for id in determining {
            if let Some(policy) = self.policies.get_mut(&(store.clone(), id.clone())) {
                policy.determined = policy.determined.saturating_add(1);
            }
        }
    }

    /// Policies that determined a decision.
    pub fn of_policies(&self) -> Share {
        Share::of(self.policies.values().map(|policy| policy.determined > 0))
    }

    /// Routes that were found.
    pub fn of_routes(&self) -> Share {
        Share::of(self.routes.values().map(|hits| *hits > 0))
    }

    /// Branches: two of each test.
    pub fn of_branches(&self) -> Share {
        let tests = self.policies.values().flat_map(|policy| &policy.tests);
        Share::of(tests.flat_map(|test| [test.held > 0, test.failed > 0]))
    }

    /// Everything taken together.
    pub fn whole(&self) -> Share {
        let parts = [self.of_policies(), self.of_routes(), self.of_branches()];
        parts.iter().fold(Share { done: 0, all: 0 }, |sum, part| Share {
            done: sum.done.saturating_add(part.done),
            all: sum.all.saturating_add(part.all),
        })
    }

    /// What was not exercised, each in a line.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, hits)| **hits == 0)
            .map(|(route, _)| format!("no scenario is of the route `{route}`"))
            .collect();
        for ((store, id), policy) in &self.policies {
            let name = if &**store == DEFAULT { format!("`{id}`") } else { format!("`{id}` of store `{store}`") };
            if policy.in_scope == 0 {
                gaps.push(format!("{name} was never in scope"));
                continue;
            }
            if policy.determined == 0 {
                gaps.push(format!("{name} {}", policy.idle()));
            }
            for test in &policy.tests {
                let never = match (test.held, test.failed) {
                    (0, 0) => "was never asked",
                    (0, _) => "never held",
                    (_, 0) => "never failed",
                    _ => continue,
                };
                gaps.push(format!("{name}: `{}` {never}", test.text));
            }
        }
        gaps
    }
}
