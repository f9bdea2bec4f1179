//! What is odd about policies and routes taken together, told before anybody asks. Each oddity has a name, by which it can be
//! denied, or allowed with a reason.

mod caret;
mod errs;
mod fires;
mod names;
mod policies;
mod routes;

use std::{collections::HashMap, sync::Arc};

use cedar_policy::PolicyId;

pub use self::names::Lint;
use self::{
    fires::Asked,
    names::{every, known},
};
use crate::{
    base::problem::{Problem, Problems, Source},
    config::{Compiled, Config},
    policy::{
        Effect, Oddness,
        reads::Text,
        stores::{DEFAULT, Store},
    },
};

/// Something odd.
#[derive(Clone, Debug)]
pub struct Oddity {
    /// What it is.
    pub lint: Lint,
    /// The policy or the route that it is of.
    pub of: String,
    /// How it is shown.
    pub problem: Problem,
}

/// Everything that is looked at.
struct Desk<'a> {
    compiled: &'a Compiled,
    config: &'a Config,
    shelves: &'a [Shelf<'a>],
    found: Vec<Oddity>,
}

/// A store, its policies, and the questions that they may be asked.
struct Shelf<'a> {
    store: &'a Store,
    texts: Vec<Text>,
    sources: &'a HashMap<PolicyId, Arc<Source>>,
    asked: Vec<Asked<'a>>,
}

/// Looks for oddities.
///
/// # Errors
/// Where the configuration allows what has no such name, or without a reason.
pub fn oddities(config: &Config, compiled: &Compiled) -> Result<Vec<Oddity>, Problems> {
    let stores = compiled.blueprint.stores.iter().zip(&compiled.policy_sources);
    let by_host = config.stores_by_host(&compiled.blueprint.stores);
    let shelves = stores.map(|(store, sources)| {
        let is_by_host = by_host.iter().any(|other| other.number == store.number);
        Shelf::of(store, is_by_host, sources, compiled)
    });
    let shelves: Vec<_> = shelves.collect();
    let mut desk = Desk { compiled, config, shelves: &shelves, found: Vec::new() };
    desk.policies();
    desk.routes();
    let mut found = desk.found;
    found.extend(compiled.warnings.iter().map(|warning| Oddity {
        lint: match warning.what {
            Oddness::UnlinkedTemplate => Lint::UnlinkedTemplate,
            Oddness::ImpossiblePolicy => Lint::ImpossiblePolicy,
            Oddness::Other => Lint::Cedar,
        },
        of: warning.of.clone(),
        problem: warning.problem.clone(),
    }));
    allow(config, found)
}

/// `found` without what the configuration allows.
fn allow(config: &Config, found: Vec<Oddity>) -> Result<Vec<Oddity>, Problems> {
    let mut problems = Problems::default();
    let mut used = vec![false; config.warnings.len()];
    for allowed in &config.warnings {
        if known(&allowed.allow.value).is_none() {
            let problem = Problem::at(&allowed.allow, format!("there is no warning `{}`", allowed.allow.value));
            problems.push(problem.fix(format!("it is one of {}", every())));
        }
        if allowed.reason.value.trim().is_empty() {
            problems
                .push(Problem::at(&allowed.reason, "allowed without a reason").fix("say why it is as it should be"));
        }
    }
    let mut left = Vec::new();
    for oddity in found {
        let mut is_allowed = false;
        for (allowed, used) in config.warnings.iter().zip(&mut used) {
            let allows = known(&allowed.allow.value) == Some(oddity.lint)
                && allowed.of.as_ref().is_none_or(|of| of.value == oddity.of);
            *used |= allows;
            is_allowed |= allows;
        }
        if !is_allowed {
            left.push(oddity);
        }
    }
    for (allowed, _) in config.warnings.iter().zip(used).filter(|(_, used)| !used) {
        let problem = Problem::at(&allowed.allow, format!("`{}` is allowed, and nothing is so", allowed.allow.value));
        left.push(Oddity { lint: Lint::UnusedAllow, of: String::new(), problem: problem.fix("remove the entry") });
    }
    problems.into_result(Some(left))
}

impl<'a> Shelf<'a> {
    /// `store`, which hosts may choose for routes that name none, or not.
    fn of(
        store: &'a Store,
        is_by_host: bool,
        sources: &'a HashMap<PolicyId, Arc<Source>>,
        compiled: &'a Compiled,
    ) -> Self {
        let blueprint = &compiled.blueprint;
        let name = store.name.as_deref().unwrap_or(DEFAULT);
        let plans = blueprint.routes.routes().iter();
        let plans = plans.filter(|plan| plan.store().map_or(is_by_host, |named| named == name));
        let asked = plans.flat_map(|plan| {
            let rules = &blueprint.trust.rules;
            plan.sides().iter().map(move |side| Asked::new(&blueprint.mapping, rules, plan, *side))
        });
        Self { store, texts: store.policies.texts(), sources, asked: asked.collect() }
    }

    /// A problem with `part` of a policy, or with all of it: as near to it as its text tells.
    fn problem(&self, text: &Text, part: Option<&str>, message: String) -> Problem {
        let message = match &self.store.name {
            Some(name) => format!("in store `{name}`: {message}"),
            None => message,
        };
        let Some(source) = self.sources.get(&PolicyId::new(&text.id)) else { return Problem::new(message) };
        let effect = if text.effect == Effect::Permit { "permit" } else { "forbid" };
        let place = source.text.find(&text.text).and_then(|start| {
            let begin = caret::find(&text.text, effect, 0)?.start;
            let within = |part: &str| {
                let from = if part.starts_with('"') { begin } else { caret::conditions(&text.text) };
                // What is read by its whole name, or else by the last of it.
                let last = part.rsplit('.').next().unwrap_or(part);
                caret::find(&text.text, part, from).or_else(|| caret::find(&text.text, last, from))
            };
            let place = part.and_then(within).or_else(|| caret::find(&text.text, effect, begin))?;
            Some(start.saturating_add(place.start)..start.saturating_add(place.end))
        });
        match place {
            Some(place) => Problem::in_source(message, place, source),
            None => Problem::new(message).within(source),
        }
    }
}

impl Desk<'_> {
    fn note(&mut self, lint: Lint, of: impl Into<String>, problem: Problem) {
        self.found.push(Oddity { lint, of: of.into(), problem });
    }
}
