//! Whether a policy can apply to the requests of a route at all, as far as the configuration alone tells. What cannot be
//! told may be either: no warning rests on a guess.

use cedar_policy::EntityUid;
use serde_json::Value;

use crate::{
    entities::{Mapping, RoutePlan, Side, supply::Supply},
    policy::reads::{Place, Text, inner, literal_entity, literal_text, operator, place},
    token::rules::Rules,
};

/// What a condition can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Can {
    /// It can hold.
    pub(super) hold: bool,
    /// It can fail.
    pub(super) fail: bool,
    /// It can err.
    pub(super) err: bool,
}

const HOLDS: Can = Can { hold: true, fail: false, err: false };
const FAILS: Can = Can { hold: false, fail: true, err: false };
const ERRS: Can = Can { hold: false, fail: false, err: true };
const EITHER: Can = Can { hold: true, fail: true, err: false };

/// A question of one route about one principal.
pub(super) struct Asked<'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) rules: &'a [Rules],
    pub(super) plan: &'a RoutePlan,
    pub(super) side: Side,
    principal: Option<String>,
    resource: String,
    /// Type and id of its action, and of each group that it is in.
    actions: Vec<(String, String)>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(mapping: &'a Mapping, rules: &'a [Rules], plan: &'a RoutePlan, side: Side) -> Self {
        let named = |uid: EntityUid| (uid.type_name().to_string(), uid.id().unescaped().to_owned());
        Self {
            mapping,
            rules,
            plan,
            side,
            principal: mapping.principal_type(side).map(ToString::to_string),
            resource: plan.resource_template().type_name().to_string(),
            actions: plan.actions().map(named).collect(),
        }
    }

    /// Whether `policy` speaks of it: its scope can hold such a question.
    pub(super) fn is_in_scope(&self, policy: &Text) -> bool {
        ["action", "resource", "principal"]
            .into_iter()
            .all(|variable| policy.json.get(variable).is_none_or(|scope| self.scope_can_hold(variable, scope)))
    }

    /// Whether `policy`, which speaks of it, can apply.
    pub(super) fn can_apply(&self, policy: &Text) -> bool {
        self.conditions(policy).all(|can| can.hold)
    }

    /// Whether `policy` applies to every such question.
    pub(super) fn always_applies(&self, policy: &Text) -> bool {
        let narrows = |variable: &str| {
            let op = policy.json.pointer(&format!("/{variable}/op")).and_then(Value::as_str);
            let inside = policy.json.pointer(&format!("/{variable}/in")).is_some();
            inside || !matches!((variable, op), (_, Some("All" | "is")) | ("action", _))
        };
        let is_wide = !["principal", "action", "resource"].into_iter().any(narrows);
        is_wide && self.is_in_scope(policy) && self.conditions(policy).all(|can| can == HOLDS)
    }

    fn conditions(&self, policy: &Text) -> impl Iterator<Item = Can> {
        let conditions = policy.json.get("conditions").and_then(Value::as_array).into_iter().flatten();
        conditions.map(|condition| {
            let can = condition.get("body").map_or(EITHER, |body| self.can(body));
            if condition.get("kind").is_some_and(|kind| kind == "unless") { not(can) } else { can }
        })
    }

    fn scope_can_hold(&self, variable: &str, scope: &Value) -> bool {
        let op = scope.get("op").and_then(Value::as_str).unwrap_or_default();
        let of_type = || {
            let wanted = scope.get("entity_type").and_then(Value::as_str);
            wanted.is_none_or(|wanted| self.type_of(variable).is_none_or(|kind| kind == wanted))
        };
        let one = scope.get("entity");
        let several = scope.get("entities").and_then(Value::as_array).into_iter().flatten();
        let mut named = one.into_iter().chain(several).filter_map(uid);
        match (variable, op) {
            (_, "All") => true,
            ("action", _) => named.any(|(kind, id)| self.actions.iter().any(|it| it.0 == kind && it.1 == id)),
            (_, "==") => named.any(|(kind, id)| self.can_be(variable, kind, id)),
            (_, "in") => named.any(|(kind, id)| self.can_be_or_be_in(variable, kind, id)),
            (_, "is") => {
                let inside = scope.get("in").and_then(|it| uid(it.get("entity")?));
                of_type() && inside.is_none_or(|(kind, id)| self.can_be_or_be_in(variable, kind, id))
            }
            _ => true,
        }
    }

    fn type_of(&self, variable: &str) -> Option<&str> {
        match variable {
            "principal" => self.principal.as_deref(),
            "resource" => Some(&self.resource),
            _ => None,
        }
    }

    /// Whether a variable can be the entity `kind::"id"`.
    fn can_be(&self, variable: &str, kind: &str, id: &str) -> bool {
        match (variable, self.type_of(variable)) {
            (_, Some(of)) if of != kind => false,
            ("resource", _) => self.plan.resource_template().can_be(id),
            ("principal", Some(_)) => self.can_be_subject(self.side, id),
            _ => true,
        }
    }

    fn can_be_or_be_in(&self, variable: &str, kind: &str, id: &str) -> bool {
        let can_be_in = match (self.type_of(variable).map(str::parse), kind.parse()) {
            (Some(Ok(of)), Ok(kind)) => self.mapping.can_be_in(&of, &kind),
            _ => true,
        };
        can_be_in || self.can_be(variable, kind, id)
    }

    /// Whether tokens can name an agent or a user so.
    fn can_be_subject(&self, side: Side, id: &str) -> bool {
        let by_client = self.mapping.names_agents_by_client();
        let is_clean = id.trim() == id && !id.is_empty();
        is_clean
            && self.rules.iter().any(|rules| {
                let prefix = match side {
                    Side::User if by_client => rules.user_id_prefix(),
                    _ => rules.agent_id_prefix(),
                };
                let bare = match prefix {
                    Some(prefix) => id.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('|')),
                    None => Some(id),
                };
                bare.is_some_and(|bare| !bare.is_empty() && (!by_client || side == Side::User || rules.lets_in(bare)))
            })
    }

    /// What an expression that is true or false can come to.
    pub(super) fn can(&self, expression: &Value) -> Can {
        let Some((name, operands)) = operator(expression) else { return EITHER };
        let side = |name: &str| operands.get(name).unwrap_or(&Value::Null);
        match name {
            "&&" => both(self.can(side("left")), self.can(side("right"))),
            "||" => not(both(not(self.can(side("left"))), not(self.can(side("right"))))),
            "!" => not(self.can(side("arg"))),
            "if-then-else" => {
                let (test, then, otherwise) = (self.can(side("if")), self.can(side("then")), self.can(side("else")));
                let of = |branch: fn(&Can) -> bool| test.hold && branch(&then) || test.fail && branch(&otherwise);
                Can { hold: of(|it| it.hold), fail: of(|it| it.fail), err: test.err || of(|it| it.err) }
            }
            "has" => self.can_have(side("left"), side("attr")),
            "Value" => match operands.as_bool() {
                Some(true) => HOLDS,
                Some(false) => FAILS,
                None => EITHER,
            },
            _ if self.reads_absent(expression) => ERRS,
            "==" => self.can_equal(side("left"), side("right")),
            _ => EITHER,
        }
    }

    fn can_have(&self, left: &Value, attribute: &Value) -> Can {
        let Some(mut path) = place(left) else { return EITHER };
        let names = std::slice::from_ref(attribute);
        let names = attribute.as_array().map_or(names, Vec::as_slice).iter().filter_map(Value::as_str);
        path.extend(names.map(str::to_owned));
        match self.mapping.supply(self.plan, &path) {
            Supply::Never => FAILS,
            Supply::Always => HOLDS,
            Supply::Maybe => EITHER,
        }
    }

    /// Whether evaluating an expression surely reads what is never there, which errs.
    fn reads_absent(&self, expression: &Value) -> bool {
        if let Some(place) = place(expression) {
            return self.mapping.supply(self.plan, &place) == Supply::Never;
        }
        match operator(expression) {
            Some(("&&" | "||" | "!" | "has" | "if-then-else", _)) => {
                let can = self.can(expression);
                can.err && !can.hold && !can.fail
            }
            _ => inner(expression).into_iter().any(|it| self.reads_absent(it)),
        }
    }

    fn can_equal(&self, left: &Value, right: &Value) -> Can {
        let (read, (kind, id)) = match (place(left), literal_entity(right), place(right), literal_entity(left)) {
            (Some(read), Some(literal), ..) | (_, _, Some(read), Some(literal)) => (read, literal),
            _ => return EITHER,
        };
        let possible = match read.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [variable @ ("principal" | "resource")] => self.can_be(variable, kind, id),
            ["context", "onBehalfOf"] => self.can_be_subject(Side::User, id),
            // What else names somebody may name those who do not come in.
            _ => true,
        };
        if possible { EITHER } else { FAILS }
    }
}

fn uid(json: &Value) -> Option<(&str, &str)> {
    let json = json.get("__entity").unwrap_or(json);
    Some((json.get("type")?.as_str()?, json.get("id")?.as_str()?))
}

/// The literal texts that `expression` looks for in one place.
pub(super) fn texts_wanted(expression: &Value) -> Option<(Place, Vec<&str>)> {
    let (name, operands) = operator(expression)?;
    if !matches!(name, "contains" | "containsAll" | "containsAny" | "==") {
        return None;
    }
    let (left, right) = (operands.get("left")?, operands.get("right")?);
    let (place, wanted) = match (place(left), place(right)) {
        (Some(place), None) => (place, right),
        (None, Some(place)) => (place, left),
        _ => return None,
    };
    let several = wanted.get("Set").and_then(Value::as_array).map_or(std::slice::from_ref(wanted), Vec::as_slice);
    Some((place, several.iter().filter_map(literal_text).collect()))
}

const fn not(can: Can) -> Can {
    Can { hold: can.fail, fail: can.hold, err: can.err }
}

const fn both(left: Can, right: Can) -> Can {
    Can {
        hold: left.hold && right.hold,
        fail: left.fail || left.hold && right.fail,
        err: left.err || left.hold && right.err,
    }
}
