//! Which values a policy must see as they are: for a question whose values are replaced by others that are equal where
//! they were equal, and nothing else.

use serde_json::Value;

use super::reads::{Place, Text, expressions, operator, place};
use crate::entities::recorded::FUNCTIONS;

/// A value that must be as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// What stands here.
    Place(Place),
    /// What cannot be told from the policy: it is reached by a tag, or by an entity that the policy names.
    Anything,
}

impl Text {
    /// What must be as it is for the policy to be judged: whatever is compared by more than equality, or computed with.
    pub fn needs_in_the_clear(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        for expression in self.expressions() {
            note(expression, &mut needs);
        }
        needs.sort();
        needs.dedup();
        needs
    }
}

/// What an expression itself needs, whatever is inside it.
fn note(expression: &Value, needs: &mut Vec<Need>) {
    let Some((name, operands)) = operator(expression) else { return };
    let sides = || ["left", "right"].iter().filter_map(|side| operands.get(*side));
    match name {
        "==" | "!=" | "contains" | "containsAll" | "containsAny" if sides().any(is_computed) => {
            sides().for_each(|side| values(side, needs));
        }
        "hasTag" | "getTag" => sides().skip(1).for_each(|key| values(key, needs)),
        _ if computes(name, operands) || name == "like" => match operands {
            Value::Array(arguments) => arguments.iter().for_each(|it| values(it, needs)),
            _ => ["left", "right", "arg"].iter().filter_map(|it| operands.get(*it)).for_each(|it| values(it, needs)),
        },
        _ => {}
    }
}

/// The values that an expression is made of.
fn values(expression: &Value, needs: &mut Vec<Need>) {
    match (operator(expression), place(expression)) {
        (Some(("Value" | "Var", _)), _) => {}
        (_, Some(place)) => needs.push(Need::Place(place)),
        (Some(("." | "getTag", _)), None) => needs.push(Need::Anything),
        _ => super::reads::inner(expression).into_iter().for_each(|it| values(it, needs)),
    }
}

/// Whether anything in an expression is computed.
fn is_computed(expression: &Value) -> bool {
    let mut all = Vec::new();
    expressions(expression, &mut all);
    all.into_iter().filter_map(operator).any(|(name, operands)| computes(name, operands))
}

/// Whether an operator makes something of the values themselves. What makes a value of an extension type does not: equal
/// values have one form there.
fn computes(name: &str, operands: &Value) -> bool {
    let is_call = operands.is_array() && name != "Set" && !FUNCTIONS.contains(&name);
    is_call || matches!(name, "<" | "<=" | ">" | ">=" | "+" | "-" | "*" | "neg")
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    #[test]
    fn what_is_compared_by_more_than_equality_is_needed_and_nothing_else() {
        for (condition, needs) in [
            ("context.token.app == \"a\"", &[][..]),
            ("context.token.scope.contains(\"a\") && resource.owner == context.onBehalfOf", &[]),
            ("principal in Group::\"a\" && resource has note", &[]),
            ("context.request.peer == ip(\"10.0.0.1/32\")", &[]),
            ("resource.size == -7", &[]),
            ("context.token.app like \"a*\"", &["context.token.app"]),
            ("context.onBehalfOf.level < 10", &["context.onBehalfOf.level"]),
            ("resource.a + context.b == 3", &["context.b", "resource.a"]),
            ("resource.size == 60 * 60", &["resource.size"]),
            ("resource.sizes.contains(60 * 60)", &["resource.sizes"]),
            ("context.request.peer.isInRange(ip(\"10.0.0.0/8\"))", &["context.request.peer"]),
            ("context.request.time.toTime() == duration(\"1h\")", &["context.request.time"]),
            ("(if resource.open then resource.a else 3) < 2", &["resource.a", "resource.open"]),
            ("Team::\"staff\".level < 4", &["anything"]),
            ("principal.getTag(\"email\") like \"*@a\"", &["anything"]),
            ("principal.getTag(\"email\") == \"a\"", &[]),
            ("resource.team.hasTag(context.token.color)", &["context.token.color"]),
        ] {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            let text = Text::of(&Policy::parse(None, text).unwrap()).unwrap();
            let found: Vec<_> = text
                .needs_in_the_clear()
                .into_iter()
                .map(|need| match need {
                    Need::Place(place) => place.join("."),
                    Need::Anything => "anything".into(),
                })
                .collect();
            assert_eq!(found, needs, "{condition}");
        }
    }
}
