//! What policies read of the request itself (`context.request`), told from their compiled form. Whatever is not understood
//! reads everything.

use std::collections::{BTreeSet, HashMap};

use cedar_policy::{
    EntityUid, Policy,
    pst::{Clause, Expr, Var},
};

use super::Policies;

/// What the policies of a store read of requests, by the action that they name; `None` for those that name none.
#[derive(Debug)]
pub struct RequestReads(HashMap<Option<EntityUid>, Reads>);

/// What some policies read of a request.
#[derive(Debug, Default)]
struct Reads {
    /// Whether it cannot be told what.
    everything: bool,
    /// Members of `context.request`.
    members: BTreeSet<String>,
}

impl Policies {
    /// What they read of requests.
    pub fn request_reads(&self) -> RequestReads {
        let by_action = self.index.by_action().map(|(action, policies)| {
            let mut reads = Reads::default();
            policies.for_each(|policy| reads.note_policy(policy));
            (action.clone(), reads)
        });
        RequestReads(by_action.collect())
    }
}

impl RequestReads {
    /// Whether a policy about one of these `actions`, or about any, reads one of these members of `context.request`.
    pub fn any(&self, actions: impl IntoIterator<Item = EntityUid>, members: &[&str]) -> bool {
        let named = std::iter::once(None).chain(actions.into_iter().map(Some));
        named.filter_map(|action| self.0.get(&action)).any(|reads| reads.has(members))
    }
}

impl Reads {
    fn has(&self, members: &[&str]) -> bool {
        self.everything || members.iter().any(|member| self.members.contains(*member))
    }

    fn note_policy(&mut self, policy: &Policy) {
        match policy.to_pst() {
            Ok(policy) => policy.body().clauses().iter().for_each(|clause| match clause {
                Clause::When(condition) | Clause::Unless(condition) => self.note(condition),
            }),
            Err(_) => self.everything = true,
        }
    }

    fn note(&mut self, expression: &Expr) {
        match expression {
            Expr::Literal(_) | Expr::Slot(_) | Expr::Var(Var::Principal | Var::Action | Var::Resource) => {}
            Expr::Var(Var::Context) => self.everything = true,
            Expr::GetAttr { expr, attr } => match of_context(expr) {
                Some(mut path) => {
                    path.push(attr);
                    self.note_path(&path);
                }
                None => self.note(expr),
            },
            Expr::HasAttr { expr, attrs } => match of_context(expr) {
                Some(mut path) => {
                    path.extend(attrs.iter().map(|attr| attr.as_str()));
                    // That there is a request at all is so for each.
                    if path != ["request"] {
                        self.note_path(&path);
                    }
                }
                None => self.note(expr),
            },
            Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => self.note(expr),
            Expr::BinaryOp { left, right, .. } => [left, right].into_iter().for_each(|side| self.note(side)),
            Expr::Is { expr, in_expr, .. } => std::iter::once(expr).chain(in_expr).for_each(|it| self.note(it)),
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                [cond, then_expr, else_expr].into_iter().for_each(|part| self.note(part));
            }
            Expr::Set(elements) => elements.iter().for_each(|it| self.note(it)),
            Expr::Record(members) => members.values().for_each(|it| self.note(it)),
            _ => self.everything = true,
        }
    }

    /// Notes what stands at `path`, from the context on.
    fn note_path(&mut self, path: &[&str]) {
        match path {
            [] | ["request"] => self.everything = true,
            ["request", member, ..] => {
                self.members.insert((*member).to_owned());
            }
            _ => {}
        }
    }
}

/// The attributes from the context to `expression`, if it is the context or something in it.
fn of_context(expression: &Expr) -> Option<Vec<&str>> {
    match expression {
        Expr::Var(Var::Context) => Some(Vec::new()),
        Expr::GetAttr { expr, attr } => {
            let mut path = of_context(expr)?;
            path.push(attr);
            Some(path)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use cedar_policy::{Authorizer, Context, Entities, PolicySet, Request};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn reads(condition: &str) -> Reads {
        let mut reads = Reads::default();
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        reads.note_policy(&Policy::parse(None, text).unwrap_or_else(|error| panic!("{condition}: {error:?}")));
        reads
    }

    #[test]
    fn what_is_read_of_a_request_is_found_wherever_it_stands() {
        for (condition, members) in [
            ("context.token.app == \"a\" && resource.owner == context.onBehalfOf", Some(&[][..])),
            ("context has request && context.token has request.time", Some(&[])),
            ("principal.request.time == resource.request.time", Some(&[])),
            ("context.token.request.time", Some(&[])),
            ("\"context.request.time\" like \"*\"", Some(&[])),
            ("context.request.method == \"GET\"", Some(&["method"])),
            ("context has request.peer && context.request has time.x", Some(&["peer", "time"])),
            ("!(context[\"request\"][\"ti\\u{6d}e\"] < datetime(\"2026-01-01\"))", Some(&["time"])),
            (
                "if context.a then context.request.headers.x.isEmpty() else context.request.query.q == [1]",
                Some(&["headers", "query"]),
            ),
            ("[{a: [context.request.peer]}] == [resource]", Some(&["peer"])),
            ("resource is D in context.request.place", Some(&["place"])),
            ("context.request.peer.isInRange(ip(\"10.0.0.0/8\")) || -context.request.n + 1 == 2", Some(&["n", "peer"])),
            ("principal.getTag(context.request.host) like \"a*\"", Some(&["host"])),
            ("context.request == {}", None),
            ("context == {}", None),
            ("[context].contains(principal)", None),
            ("{a: context}.a.request.time == 1", None),
            ("(if true then context else context).request.time == 1", None),
            ("(if true then context.request else context.request).time == 1", None),
            ("context.request.isEmpty()", None),
        ] {
            let found = reads(condition);
            let named: Vec<_> = found.members.iter().map(String::as_str).collect();
            assert_eq!((!found.everything).then_some(&named[..]), members, "{condition}");
        }
    }

    /// Conditions that read the context in every way.
    fn condition() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "context.token.app == \"a\"",
            "context.request.a == 1",
            "context.request.b < 2",
            "context has request.c",
            "context.request has d && context.request.d.e == 1",
            "context[\"request\"].a + 1 == context.request.b",
            "context.request == {a: 1, b: 1}",
            "[context.request.a].contains(context.request.b)",
            "{x: context}.x.request.a == 1",
            "(if context has request.c then context.request else {a: 1}).a == 1",
            "principal == resource",
            "context has request",
        ]);
        leaf.prop_map(str::to_owned).prop_recursive(3, 8, 3, |inner| {
            let pair = (inner.clone(), inner.clone());
            prop_oneof![
                inner.clone().prop_map(|it| format!("!({it})")),
                pair.clone().prop_map(|(one, other)| format!("({one}) && ({other})")),
                pair.clone().prop_map(|(one, other)| format!("({one}) || ({other})")),
                (pair, inner).prop_map(|((test, then), other)| format!("if ({test}) then ({then}) else ({other})")),
            ]
        })
    }

    /// A request with some of the members, each of a few values.
    fn members() -> impl Strategy<Value = HashMap<&'static str, serde_json::Value>> {
        let some = |value: serde_json::Value| prop_oneof![Just(value), Just(json!(1)), Just(json!(2))];
        let each = (some(json!(0)), some(json!(0)), some(json!(0)), some(json!({ "e": 1 })));
        (each, prop::sample::subsequence(vec!["a", "b", "c", "d"], 0..=4)).prop_map(|((a, b, c, d), there)| {
            HashMap::from([("a", a), ("b", b), ("c", c), ("d", d)])
                .into_iter()
                .filter(|(it, _)| there.contains(it))
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn what_a_policy_does_not_read_changes_nothing(text in condition(), one in members(), other in members()) {
            let reads = reads(&text);
            let set: PolicySet = format!("permit (principal, action, resource) when {{ {text} }};").parse().unwrap();
            let decide = |request: &HashMap<&str, serde_json::Value>| {
                let context = json!({ "token": { "app": "a" }, "request": request });
                let context = Context::from_json_value(context, None).unwrap();
                let uid = |uid: &str| uid.parse().unwrap();
                let request = Request::new(uid("U::\"u\""), uid("Action::\"a\""), uid("D::\"d\""), context, None).unwrap();
                let response = Authorizer::new().is_authorized(&request, &set, &Entities::empty());
                (response.decision(), response.diagnostics().errors().count())
            };
            // The second request, but for what is read.
            let mut mixed = other;
            for member in ["a", "b", "c", "d"].into_iter().filter(|member| reads.has(&[*member])) {
                mixed.remove(member);
                mixed.extend(one.get(member).map(|value| (member, value.clone())));
            }
            prop_assert_eq!(decide(&one), decide(&mixed), "{}: {:?} {:?}", text, one, mixed);
        }
    }
}
