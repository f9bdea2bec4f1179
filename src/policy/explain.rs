//! Why a question is decided as it is: each policy that speaks of the action, with what came of each of its parts, and the
//! nearest miss.

use std::sync::Arc;

use cedar_policy::{Effect, Entities, Policy, PolicySet, Request};

use super::{
    Policies, PolicyNote,
    anatomy::{Anatomy, Finding, Shape, Truth, conclusion},
    stores::OnError,
};
use crate::entities::{DecisionRequest, Side};

/// Permits that are looked at for what a client is told.
const PERMITS_TOLD_MAX: usize = 32;

/// What the policies have to do with a question, for each principal that it is put for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// For each principal.
    pub sides: Vec<Consulted>,
    /// What becomes of a request when a policy errs.
    pub on_error: OnError,
}

/// What the policies have to do with one principal's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consulted {
    /// The principal.
    pub side: Side,
    /// The policies that speak of the action: those that apply first, then those that lack least.
    pub policies: Vec<Examined>,
}

/// A policy and a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The policy.
    pub note: Arc<PolicyNote>,
    /// What it does where it applies.
    pub effect: Effect,
    /// Whether it applies.
    pub applies: Truth,
    /// What came of its scope.
    pub scope: Vec<Finding>,
    /// What came of its conditions.
    pub conditions: Vec<Finding>,
}

/// A policy, taken apart.
#[derive(Clone, Debug)]
pub struct Dissected {
    /// The policy.
    pub note: Arc<PolicyNote>,
    /// What it does where it applies.
    pub effect: Effect,
    /// Its text.
    pub text: String,
    /// Its parts.
    pub anatomy: Arc<Anatomy>,
}

/// What would have made an allowance of a denial, as far as one policy can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// To whom it was denied.
    pub side: Side,
    /// The policy.
    pub note: Arc<PolicyNote>,
    /// What stands between.
    pub gap: Gap,
}

/// Whether other policies stand in the way too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// None does.
    Yes,
    /// Some do.
    No,
}

/// What stands between a denial and an allowance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// A permit would apply if these held, which is all that stands between where no other policy does.
    Lacks(Vec<Finding>, Alone),
    /// A forbid would not apply if one of these did not hold; none where it applies to everything.
    Forbids(Vec<Finding>),
    /// The policy cannot be evaluated; why.
    Errs(String),
}

impl Policies {
    /// Why `question` is decided as it is.
    pub fn explain(&self, question: &DecisionRequest) -> Explanation {
        let sides = question.requests.iter().map(|(side, request)| {
            let mut policies: Vec<_> = self
                .index
                .of_action(request, &question.entities)
                .filter_map(|policy| self.examine(policy, request, &question.entities))
                .collect();
            policies.sort_by_key(|it| (it.rank(), it.note.id.clone()));
            policies.dedup_by(|a, b| a.note.id == b.note.id);
            Consulted { side: *side, policies }
        });
        Explanation { sides: sides.collect(), on_error: self.on_error }
    }

    /// What would have allowed `question`, that no permit in scope applies to, to `side`. Looks at some permits alone, so
    /// that a denial costs little however many there are.
    pub fn nearest_miss(&self, question: &DecisionRequest, side: Side) -> Option<Miss> {
        let (_, request) = question.requests.iter().find(|(of, _)| *of == side)?;
        let permits = self
            .index
            .matching(request, &question.entities)
            .flat_map(PolicySet::policies)
            .filter(|policy| policy.effect() == Effect::Permit);
        let examined = permits.take(PERMITS_TOLD_MAX).filter_map(|it| self.examine(it, request, &question.entities));
        let nearest = examined.min_by_key(Examined::distance)?;
        let lacks = nearest.lacks().into_iter().cloned().collect();
        Some(Miss { side, note: nearest.note, gap: Gap::Lacks(lacks, Alone::Yes) })
    }

    fn examine(&self, policy: &Policy, request: &Request, entities: &Entities) -> Option<Examined> {
        let (scope, conditions) = self.anatomy(policy)?.examine(request, entities);
        let outside = scope.iter().any(|part| part.truth != Truth::True);
        let applies = if outside { Truth::False } else { conclusion(&conditions) };
        Some(Examined { note: self.note_of(policy.id()), effect: policy.effect(), applies, scope, conditions })
    }

    /// The policy taken apart: once.
    pub(super) fn anatomy(&self, policy: &Policy) -> Option<Arc<Anatomy>> {
        let cell = &self.known.get(policy.id())?.anatomy;
        cell.get_or_init(|| Anatomy::of(policy).map(Arc::new)).clone()
    }

    /// Every policy, taken apart, in order of id.
    pub fn dissected(&self) -> Vec<Dissected> {
        let each = self.index.policies().filter_map(|policy| {
            let (note, anatomy) = (self.note_of(policy.id()), self.anatomy(policy)?);
            Some(Dissected { note, effect: policy.effect(), text: policy.to_string(), anatomy })
        });
        let mut all: Vec<_> = each.collect();
        all.sort_by(|a, b| a.note.id.cmp(&b.note.id));
        all.dedup_by(|a, b| a.note.id == b.note.id);
        all
    }
}

impl Examined {
    /// Whether its scope holds the question.
    pub fn is_in_scope(&self) -> bool {
        self.scope.iter().all(|part| part.truth == Truth::True)
    }

    /// The parts that would have to hold for it to apply, and do not.
    pub fn lacks(&self) -> Vec<&Finding> {
        self.scope.iter().chain(&self.conditions).filter(|part| part.truth != Truth::True).collect()
    }

    /// How far it is from applying: whether it is about others, what it lacks, and whether none of that looks like a slip.
    fn distance(&self) -> (bool, usize, bool, String) {
        let lacks = self.lacks();
        let no_slip = !lacks.iter().any(|part| part.tests().iter().any(|test| test.hint.is_some()));
        (self.is_foreign(), lacks.len(), no_slip, self.note.id.clone())
    }

    /// Whether it is about others, and not by a slip.
    fn is_foreign(&self) -> bool {
        self.scope.iter().any(|part| part.truth != Truth::True && part.hint.is_none())
    }

    /// Applying forbids first, then errors, applying permits, and the rest by what they lack.
    fn rank(&self) -> (u8, usize) {
        match (&self.applies, self.effect) {
            (Truth::True, Effect::Forbid) => (0, 0),
            (Truth::Error(_), _) => (1, 0),
            (Truth::True, Effect::Permit) => (2, 0),
            (Truth::False, _) => (3, self.lacks().len()),
        }
    }
}

impl Explanation {
    /// What would have allowed a question that was denied to `side`: for the default denial the permit that lacks least;
    /// else each policy that stands in the way.
    pub fn misses(&self, side: Side) -> Vec<Miss> {
        let Some(consulted) = self.sides.iter().find(|it| it.side == side) else { return Vec::new() };
        let miss = |examined: &Examined, gap| Miss { side, note: examined.note.clone(), gap };
        let in_the_way = consulted.policies.iter().filter_map(|it| match (&it.applies, it.effect) {
            // One that is passed over stands in nobody's way.
            (Truth::Error(_), _) if self.on_error == OnError::AcceptSkippedPolicies => None,
            (Truth::Error(why), _) => Some(miss(it, Gap::Errs(why.clone()))),
            (Truth::True, Effect::Forbid) => Some(miss(it, Gap::Forbids(it.conditions.clone()))),
            _ => None,
        });
        let mut misses: Vec<_> = in_the_way.collect();
        let permits = || consulted.policies.iter().filter(|it| it.effect == Effect::Permit);
        let allowed = permits().any(|it| it.applies == Truth::True);
        let nearest = permits().filter(|it| it.applies == Truth::False).min_by_key(|it| it.distance());
        if let (false, Some(nearest)) = (allowed, nearest) {
            let alone = if misses.is_empty() { Alone::Yes } else { Alone::No };
            misses.push(miss(nearest, Gap::Lacks(nearest.lacks().into_iter().cloned().collect(), alone)));
        }
        misses
    }
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = &self.note.id;
        match &self.gap {
            Gap::Lacks(parts, Alone::Yes) => write!(f, "`{id}` would allow it if {}", each(parts, to_hold, " and ")),
            Gap::Lacks(parts, Alone::No) => write!(f, "`{id}` would apply if {}", each(parts, to_hold, " and ")),
            Gap::Forbids(parts) if parts.is_empty() => write!(f, "`{id}` forbids it, whatever else holds"),
            Gap::Forbids(parts) => write!(f, "`{id}` would not forbid it if {}", each(parts, to_fail, " or ")),
            Gap::Errs(why) => write!(f, "`{id}` cannot be evaluated: {why}"),
        }
    }
}

fn each<'a>(parts: impl IntoIterator<Item = &'a Finding>, said: fn(&Finding) -> String, joint: &str) -> String {
    parts.into_iter().map(said).collect::<Vec<_>>().join(joint)
}

/// What it would take for a part to hold that does not.
fn to_hold(part: &Finding) -> String {
    let lacking = || part.parts.iter().filter(|it| it.truth != Truth::True);
    match part.shape {
        Shape::Test | Shape::If => format!("`{}` held", part.text),
        Shape::Not => each(&part.parts, to_fail, ""),
        Shape::All => each(lacking(), to_hold, " and "),
        Shape::Any => format!("({})", each(&part.parts, to_hold, " or ")),
    }
}

/// What it would take for a part not to hold that does.
fn to_fail(part: &Finding) -> String {
    let holding = || part.parts.iter().filter(|it| it.truth == Truth::True);
    match part.shape {
        Shape::Test | Shape::If => format!("`{}` did not hold", part.text),
        Shape::Not => each(&part.parts, to_hold, ""),
        Shape::All => format!("({})", each(&part.parts, to_fail, " or ")),
        Shape::Any => each(holding(), to_fail, " and "),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        path::PathBuf,
    };

    use cedar_policy::{Context, Entity, EntityUid, RestrictedExpression};

    use super::*;
    use crate::{
        base::files::Files,
        policy::{PolicyFiles, stores::StoreConfig},
    };

    /// What would have allowed what no permit applies to, and a forbid errs about.
    fn misses(on_error: &str) -> Vec<String> {
        let files = Files::memory([
            (
                "p/schema.cedarschema",
                "entity Agent; entity Doc = { size: Long };
                action read appliesTo { principal: [Agent], resource: [Doc] };",
            ),
            (
                "p/a.cedar",
                "@id(\"much\") forbid (principal, action, resource) when { resource.size * 2 > 9 };
                @id(\"one\") permit (principal == Agent::\"one\", action, resource);",
            ),
        ]);
        let config = format!("{{ name: default, on_error: {on_error} }}");
        let config: StoreConfig = serde_saphyr::from_str(&config).unwrap();
        let loaded = PolicyFiles::new(&files, &PathBuf::from("p")).load(&[config], None).unwrap();
        let uid = |text: &str| text.parse::<EntityUid>().unwrap();
        let (agent, action, doc) = (uid("Agent::\"two\""), uid("Action::\"read\""), uid("Doc::\"d\""));
        let request = Request::new(agent, action, doc.clone(), Context::empty(), None).unwrap();
        let size = HashMap::from([("size".to_owned(), RestrictedExpression::new_long(i64::MAX))]);
        let doc = Entity::new(doc, size, HashSet::new()).unwrap();
        let entities = Entities::from_entities([doc], None).unwrap();
        let question = DecisionRequest { requests: vec![(Side::Agent, request)], entities, origins: Vec::new() };
        let policies = &loaded.stores.choose(None, || None).unwrap().policies;
        policies.explain(&question).misses(Side::Agent).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_policy_that_errs_stands_in_the_way_only_where_it_is_not_passed_over() {
        let told = misses("deny");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("`much` cannot be evaluated") && told[1].starts_with("`one` would apply if"));
        let told = misses("accept_skipped_policies");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("`one` would allow it if"), "{told:?}");
    }
}
