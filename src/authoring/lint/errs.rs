//! How evaluating a policy can err: where that is not guarded by what stands before it.

use serde_json::Value;

use super::fires::Asked;
use crate::policy::reads::{Place, Text, inner, operator, place};

/// Everything by which `text` can err when it is asked any of these.
pub(super) fn faults(text: &Text, asked: &[&Asked<'_>]) -> Vec<String> {
    let mut found = Faults { asked, guards: Vec::new(), faults: Vec::new() };
    for condition in text.json.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        let Some(body) = condition.get("body") else { continue };
        found.look(body);
        // What one condition has shown stands for those behind it.
        found.guards.extend(shown(body, condition.get("kind").is_none_or(|kind| kind == "when")));
    }
    found.faults.dedup();
    found.faults
}

struct Faults<'a> {
    asked: &'a [&'a Asked<'a>],
    /// What is known to be there.
    guards: Vec<Place>,
    faults: Vec<String>,
}

impl Faults<'_> {
    fn look(&mut self, expression: &Value) {
        if let Some(place) = place(expression) {
            return self.read(&place);
        }
        let Some((name, operands)) = operator(expression) else { return };
        let side = |name: &str| operands.get(name).unwrap_or(&Value::Null);
        match name {
            "&&" => self.in_turn(side("left"), &[(true, side("right"))]),
            "||" => self.in_turn(side("left"), &[(false, side("right"))]),
            "if-then-else" => self.in_turn(side("if"), &[(true, side("then")), (false, side("else"))]),
            "+" | "-" | "*" | "neg" | "offset" | "durationSince" if !is_constant(expression) => {
                self.faults.push(format!("`{name}` can overflow"));
                inner(expression).into_iter().for_each(|it| self.look(it));
            }
            _ => inner(expression).into_iter().for_each(|it| self.look(it)),
        }
    }

    /// Looks at what is evaluated first, and at what is evaluated where that is true or false.
    fn in_turn(&mut self, first: &Value, then: &[(bool, &Value)]) {
        self.look(first);
        for (when, next) in then {
            let before = self.guards.len();
            self.guards.extend(shown(first, *when));
            self.look(next);
            self.guards.truncate(before);
        }
    }

    fn read(&mut self, place: &Place) {
        let through =
            self.asked.iter().filter_map(|asked| asked.mapping.entity_at(asked.plan, asked.side, place)).min();
        let Some(entity) = through.and_then(|length| place.get(..length)) else { return };
        let is_guarded = self.guards.iter().any(|guard| guard.len() > entity.len() && guard.starts_with(entity));
        if !is_guarded {
            self.faults.push(format!("`{}` is of an entity that may not be there", place.join(".")));
        }
    }
}

/// The places that are there where `expression` is `when`.
fn shown(expression: &Value, when: bool) -> Vec<Place> {
    let Some((name, operands)) = operator(expression) else { return Vec::new() };
    let side = |name: &str| operands.get(name).unwrap_or(&Value::Null);
    match name {
        "has" if when => tested(operands).into_iter().collect(),
        "!" => shown(side("arg"), !when),
        "&&" if when => [shown(side("left"), true), shown(side("right"), true)].concat(),
        "||" if !when => [shown(side("left"), false), shown(side("right"), false)].concat(),
        _ => Vec::new(),
    }
}

/// The place that a `has` asks for.
fn tested(operands: &Value) -> Option<Place> {
    let mut tested = place(operands.get("left")?)?;
    match operands.get("attr")? {
        Value::String(name) => tested.push(name.clone()),
        names => tested.extend(names.as_array()?.iter().filter_map(|name| name.as_str().map(str::to_owned))),
    }
    Some(tested)
}

/// Whether an expression is the same for every request, so that its author has seen what comes of it.
fn is_constant(expression: &Value) -> bool {
    let reads = matches!(operator(expression), Some(("Var" | "Slot" | "Unknown", _)));
    !reads && inner(expression).into_iter().all(is_constant)
}
