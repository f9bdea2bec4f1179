//! A policy taken apart, so that it can be told which part of it failed: its scope and its conditions as a tree of tests,
//! each of which Cedar evaluates by itself. What decides is the policy as a whole, never this.

use std::{str::FromStr, sync::Arc};

use cedar_policy::{Entities, EvalResult, Expression, Policy, Request, eval_expression};
use serde_json::{Map, Value, json};

use super::likeness::likeness;

/// A policy, taken apart.
#[derive(Debug)]
pub struct Anatomy {
    /// What must hold for the policy to apply: its scope first, then its conditions.
    parts: Vec<Condition>,
    /// How many parts are of the scope.
    scope: usize,
}

/// A part of a policy.
#[derive(Debug)]
pub(super) enum Condition {
    /// All of these: `&&`.
    All(Vec<Self>),
    /// One of these: `||`.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// If the first, the second, else the third.
    If(Box<[Self; 3]>),
    /// What is not taken apart further.
    Test(Test),
}

/// A test that is true or false by itself.
#[derive(Debug)]
pub(super) struct Test {
    text: Arc<str>,
    expression: Expression,
    /// What it compares, but for literals.
    operands: Vec<(Arc<str>, Expression)>,
    /// The literals that it compares with.
    literals: Vec<Expression>,
    /// Whether it asks what an entity is in.
    asks_within: bool,
}

/// What came of a part of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The part, as Cedar.
    pub text: Arc<str>,
    /// What it is.
    pub truth: Truth,
    /// Whether Cedar gets to it: what stands before may have settled the matter.
    pub reached: bool,
    /// What it compares: a text in Cedar, and its value.
    pub values: Vec<(Arc<str>, String)>,
    /// What nearly held, where it did not.
    pub hint: Option<String>,
    /// How it is made of its parts.
    pub shape: Shape,
    /// The parts that it is made of; none for a test.
    pub parts: Vec<Self>,
}

/// How a part of a policy is made of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It is a test by itself.
    Test,
    /// All of them must hold.
    All,
    /// One of them must.
    Any,
    /// The one must not.
    Not,
    /// If the first, the second, else the third.
    If,
}

/// What a part of a policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told; why.
    Error(String),
}

/// Longest text that is shown of a value, in characters.
const VALUE_CHARS_SHOWN: usize = 400;

impl Anatomy {
    /// Takes `policy` apart. `None` for what Cedar cannot write down, which no policy that was loaded is.
    pub fn of(policy: &Policy) -> Option<Self> {
        let json = policy.to_json().ok()?;
        let mut parts = scope(&json)?;
        let scope = parts.len();
        for condition in json.get("conditions").and_then(Value::as_array).into_iter().flatten() {
            let body = Condition::of(condition.get("body")?)?;
            let whole = if condition.get("kind")? == "unless" { body.negated() } else { body };
            match whole {
                Condition::All(several) => parts.extend(several),
                one => parts.push(one),
            }
        }
        Some(Self { parts, scope })
    }

    /// What comes of each part, the scope's apart.
    pub fn examine(&self, request: &Request, entities: &Entities) -> (Vec<Finding>, Vec<Finding>) {
        let mut findings = in_turn(&self.parts, Ends::AtFalse, true, request, entities);
        let conditions = findings.split_off(self.scope.min(findings.len()));
        (findings, conditions)
    }

    #[cfg(test)]
    pub(super) fn scope_tests(&self) -> Vec<Arc<str>> {
        let mut tests = Vec::new();
        self.parts.iter().take(self.scope).for_each(|part| part.tests(&mut tests));
        tests
    }

    /// The tests that the policy's conditions are made of, each as Cedar.
    pub fn tests(&self) -> Vec<Arc<str>> {
        let mut tests = Vec::new();
        self.parts.iter().skip(self.scope).for_each(|part| part.tests(&mut tests));
        tests
    }
}

impl Finding {
    /// The tests in it, with itself where it is one.
    pub fn tests(&self) -> Vec<&Self> {
        if self.parts.is_empty() { vec![self] } else { self.parts.iter().flat_map(Self::tests).collect() }
    }
}

/// What `findings`, of which all must hold, come to: the first that does not decides, as in Cedar.
pub(super) fn conclusion(findings: &[Finding]) -> Truth {
    let first = findings.iter().find(|finding| finding.truth != Truth::True);
    first.map_or(Truth::True, |finding| finding.truth.clone())
}

/// The scope's three tests, but for those that hold for everything.
fn scope(policy: &Value) -> Option<Vec<Condition>> {
    let mut tests = Vec::new();
    for variable in ["principal", "action", "resource"] {
        let said = policy.get(variable)?;
        let var = json!({ "Var": variable });
        // What a link filled in is marked as an entity already.
        let entity = |uid: &Value| json!({ "Value": { "__entity": uid.get("__entity").unwrap_or(uid) } });
        let test = match (said.get("op")?.as_str()?, said.get("entity"), said.get("entities")) {
            ("All", ..) => continue,
            (op @ ("==" | "in"), Some(uid), _) => json!({ op: { "left": var, "right": entity(uid) } }),
            (op @ "in", None, Some(uids)) => {
                let uids: Vec<_> = uids.as_array()?.iter().map(entity).collect();
                json!({ op: { "left": var, "right": { "Set": uids } } })
            }
            ("is", ..) => {
                let mut test = json!({ "left": var, "entity_type": said.get("entity_type")? });
                if let (Some(inside), Some(test)) = (said.get("in"), test.as_object_mut()) {
                    test.insert("in".into(), entity(inside.get("entity")?));
                }
                json!({ "is": test })
            }
            _ => return None,
        };
        tests.push(Condition::Test(Test::of(&test)?));
    }
    Some(tests)
}

impl Condition {
    fn of(json: &Value) -> Option<Self> {
        let (operator, operands) = json.as_object()?.iter().next()?;
        let side = |name: &str| operands.get(name);
        Some(match operator.as_str() {
            "&&" => Self::All(flat(json, "&&")?),
            "||" => Self::Any(flat(json, "||")?),
            "!" => Self::of(side("arg")?)?.negated(),
            "if-then-else" => {
                Self::If(Box::new([Self::of(side("if")?)?, Self::of(side("then")?)?, Self::of(side("else")?)?]))
            }
            _ => Self::Test(Test::of(json)?),
        })
    }

    /// Its opposite; of several, that of each, so that every test still stands by itself.
    fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            Self::All(parts) => Self::Any(parts.into_iter().map(Self::negated).collect()),
            Self::Any(parts) => Self::All(parts.into_iter().map(Self::negated).collect()),
            Self::If(parts) => {
                let [test, then, otherwise] = *parts;
                Self::If(Box::new([test, then.negated(), otherwise.negated()]))
            }
            Self::Test(test) => Self::Not(Box::new(Self::Test(test))),
        }
    }

    fn tests(&self, found: &mut Vec<Arc<str>>) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.tests(found)),
            Self::Not(inner) => inner.tests(found),
            Self::If(parts) => parts.iter().for_each(|part| part.tests(found)),
            Self::Test(test) => found.push(test.text.clone()),
        }
    }

    fn examine(&self, reached: bool, request: &Request, entities: &Entities) -> Finding {
        match self {
            Self::Test(test) => test.examine(reached, request, entities),
            Self::Not(inner) => {
                let finding = inner.examine(reached, request, entities);
                let truth = match &finding.truth {
                    Truth::True => Truth::False,
                    Truth::False => Truth::True,
                    Truth::Error(why) => Truth::Error(why.clone()),
                };
                let text = format!("!({})", finding.text).into();
                Finding {
                    truth,
                    text,
                    values: Vec::new(),
                    hint: None,
                    reached,
                    shape: Shape::Not,
                    parts: vec![finding],
                }
            }
            Self::All(parts) => {
                let parts = in_turn(parts, Ends::AtFalse, reached, request, entities);
                Finding::of_parts(Shape::All, conclusion(&parts), reached, parts)
            }
            Self::Any(parts) => {
                let parts = in_turn(parts, Ends::AtTrue, reached, request, entities);
                let settles = parts.iter().find(|part| part.truth != Truth::False);
                let truth = settles.map_or(Truth::False, |part| part.truth.clone());
                Finding::of_parts(Shape::Any, truth, reached, parts)
            }
            Self::If(parts) => {
                let [test, then, otherwise] = &**parts;
                let test = test.examine(reached, request, entities);
                let then = then.examine(reached && test.truth == Truth::True, request, entities);
                let otherwise = otherwise.examine(reached && test.truth == Truth::False, request, entities);
                let truth = match &test.truth {
                    Truth::True => then.truth.clone(),
                    Truth::False => otherwise.truth.clone(),
                    Truth::Error(why) => Truth::Error(why.clone()),
                };
                let text = format!("if {} then {} else {}", test.text, then.text, otherwise.text).into();
                Finding {
                    text,
                    truth,
                    reached,
                    values: Vec::new(),
                    hint: None,
                    shape: Shape::If,
                    parts: vec![test, then, otherwise],
                }
            }
        }
    }
}

impl Finding {
    fn of_parts(shape: Shape, truth: Truth, reached: bool, parts: Vec<Self>) -> Self {
        let texts: Vec<_> = parts
            .iter()
            .map(|part| if part.parts.len() > 1 { format!("({})", part.text) } else { part.text.to_string() })
            .collect();
        let joint = if shape == Shape::All { " && " } else { " || " };
        Self { text: texts.join(joint).into(), truth, reached, values: Vec::new(), hint: None, shape, parts }
    }
}

/// What settles a row of parts before its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    AtFalse,
    AtTrue,
}

fn in_turn(parts: &[Condition], ends: Ends, reached: bool, request: &Request, entities: &Entities) -> Vec<Finding> {
    let mut reached = reached;
    let goes_on = if ends == Ends::AtFalse { Truth::True } else { Truth::False };
    let each = parts.iter().map(|part| {
        let finding = part.examine(reached, request, entities);
        reached &= finding.truth == goes_on;
        finding
    });
    each.collect()
}

/// The parts of a row of one operator, which Cedar nests.
fn flat(json: &Value, operator: &str) -> Option<Vec<Condition>> {
    let Some(row) = json.get(operator) else { return Some(vec![Condition::of(json)?]) };
    let mut parts = flat(row.get("left")?, operator)?;
    parts.extend(flat(row.get("right")?, operator)?);
    Some(parts)
}

impl Test {
    fn of(json: &Value) -> Option<Self> {
        let (text, expression) = written(json)?;
        let (mut operands, mut literals) = (Vec::new(), Vec::new());
        for operand in compared(json.as_object()?) {
            let (text, expression) = written(operand)?;
            if is_literal(operand) {
                literals.push(expression);
            } else {
                operands.push((text, expression));
            }
        }
        let asks_within = json.get("in").is_some();
        Some(Self { text, expression, operands, literals, asks_within })
    }

    fn examine(&self, reached: bool, request: &Request, entities: &Entities) -> Finding {
        let truth = match eval_expression(request, entities, &self.expression) {
            Ok(EvalResult::Bool(true)) => Truth::True,
            Ok(EvalResult::Bool(false)) => Truth::False,
            Ok(other) => Truth::Error(format!("`{other}` is neither true nor false")),
            Err(error) => Truth::Error(error.to_string()),
        };
        let value = |expression: &Expression| eval_expression(request, entities, expression).ok();
        let of_operands: Vec<_> = self.operands.iter().map(|(text, it)| (text.clone(), value(it))).collect();
        let all: Vec<_> =
            of_operands.iter().filter_map(|(_, it)| it.clone()).chain(self.literals.iter().filter_map(value)).collect();
        let hint = match (&truth, all.as_slice()) {
            (Truth::False, [EvalResult::EntityUid(uid), other]) if self.asks_within => {
                let within = entities.ancestors(uid).into_iter().flatten();
                std::iter::once(uid).chain(within).find_map(|uid| likeness(&EvalResult::EntityUid(uid.clone()), other))
            }
            (Truth::False, [one, other]) => likeness(one, other),
            _ => None,
        };
        let shown = |value: Option<EvalResult>| value.map_or_else(|| "absent".to_owned(), |value| shown(&value));
        let values = of_operands.into_iter().map(|(text, value)| (text, shown(value))).collect();
        Finding { text: self.text.clone(), truth, reached, values, hint, shape: Shape::Test, parts: Vec::new() }
    }
}

/// A value, cut to what can be looked at.
pub fn shown(value: &EvalResult) -> String {
    let text = value.to_string();
    let mut cut: String = text.chars().take(VALUE_CHARS_SHOWN).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// What a test compares, in order.
fn compared(test: &Map<String, Value>) -> Vec<&Value> {
    let Some((operator, operands)) = test.iter().next() else { return Vec::new() };
    match operator.as_str() {
        // What is looked into is too long to be shown, and the text says what is looked for.
        "has" | "." => Vec::new(),
        _ => match operands {
            Value::Array(arguments) => arguments.iter().collect(),
            Value::Object(sides) => ["left", "right"].iter().filter_map(|side| sides.get(*side)).collect(),
            _ => Vec::new(),
        },
    }
}

fn is_literal(json: &Value) -> bool {
    let Some((kind, inner)) = json.as_object().and_then(|node| node.iter().next()) else { return false };
    match (kind.as_str(), inner) {
        ("Value", _) => true,
        ("Set", Value::Array(elements)) => elements.iter().all(is_literal),
        ("ip" | "decimal" | "datetime" | "duration", Value::Array(arguments)) => arguments.iter().all(is_literal),
        _ => false,
    }
}

/// A part of a policy's JSON form as Cedar's text, and parsed from it.
fn written(json: &Value) -> Option<(Arc<str>, Expression)> {
    const BEFORE: &str = "permit(principal, action, resource) when { ";
    let anything = json!({ "op": "All" });
    let policy = json!({
        "effect": "permit", "principal": anything, "action": anything, "resource": anything,
        "conditions": [{ "kind": "when", "body": json }],
    });
    let policy = Policy::from_json(None, policy).ok()?.to_string();
    let text = policy.strip_prefix(BEFORE)?.strip_suffix(" };")?;
    Some((text.into(), Expression::from_str(text).ok()?))
}
