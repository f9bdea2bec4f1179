//! Oddities of policies: what they read, what they look for, and whether they can apply at all.

use cedar_policy::EntityTypeName;

use super::{Desk, Lint, Shelf, errs, fires::texts_wanted};
use crate::{
    entities::{Side, supply::Supply},
    policy::{
        Effect,
        reads::{Text, literal_entity, literal_text, operator, place},
    },
    token::claims::is_scope,
};

/// What a user's id is called in tokens.
const USER_IDS: [&str; 4] = ["sub", "username", "user_id", "uid"];

impl Desk<'_> {
    pub(super) fn policies(&mut self) {
        for shelf in self.shelves {
            for text in &shelf.texts {
                self.literals(shelf, text);
                self.reach(shelf, text);
                self.scopes(shelf, text);
                self.users_as_text(shelf, text);
            }
        }
    }

    /// Blanks, entities as text, and ids that nobody has.
    fn literals(&mut self, shelf: &Shelf<'_>, text: &Text) {
        let mut entities = Vec::new();
        for expression in text.expressions() {
            if let Some(literal) = literal_text(expression) {
                if literal.trim() != literal {
                    self.blank(shelf, text, literal);
                }
                let named = literal.strip_suffix('"').and_then(|rest| rest.split_once("::\""));
                if let Some((kind, id)) = named.filter(|(kind, _)| kind.parse::<EntityTypeName>().is_ok()) {
                    let message = format!("`{}` compares with a text that is written as an entity", text.id);
                    let problem = shelf.problem(text, Some(&format!("{literal:?}")), message);
                    let fix = format!("an entity is written without quotes around it: `{kind}::{id:?}`");
                    self.note(Lint::EntityAsText, &text.id, problem.fix(fix));
                }
            }
            entities.extend(literal_entity(expression));
        }
        for variable in ["principal", "resource"] {
            let scope = text.json.get(variable);
            let uid = scope.and_then(|scope| scope.get("entity").or_else(|| scope.get("in")?.get("entity")));
            let uid = uid.map(|uid| uid.get("__entity").unwrap_or(uid));
            let member = |name: &str| uid?.get(name)?.as_str();
            entities.extend(member("type").zip(member("id")));
        }
        entities.dedup();
        for (kind, id) in entities {
            if id.trim() != id {
                self.blank(shelf, text, id);
            } else {
                self.prefix(shelf, text, kind, id);
            }
        }
    }

    fn blank(&mut self, shelf: &Shelf<'_>, text: &Text, literal: &str) {
        let message = format!("`{}` looks for `{literal}`, with a blank at an end", text.id);
        let problem = shelf.problem(text, Some(&format!("{literal:?}")), message);
        let fix = "what tokens and paths hold is compared as it is: remove the blank";
        self.note(Lint::BlankInId, &text.id, problem.fix(fix));
    }

    /// An agent, user or group of a token's that is named without the prefix that all of them carry.
    fn prefix(&mut self, shelf: &Shelf<'_>, text: &Text, kind: &str, id: &str) {
        let blueprint = &self.compiled.blueprint;
        let mapping = &blueprint.mapping;
        let is = |known: Option<&EntityTypeName>| known.is_some_and(|it| it.to_string() == kind);
        let by_agents = is(mapping.principal_type(Side::Agent)) || is(mapping.group_type());
        if !by_agents && !is(mapping.principal_type(Side::User)) {
            return;
        }
        let rules = blueprint.trust.rules.iter();
        let prefixes = rules.map(|rules| if by_agents { rules.agent_id_prefix() } else { rules.user_id_prefix() });
        let Some(prefixes) = prefixes.collect::<Option<Vec<_>>>().filter(|prefixes| !prefixes.is_empty()) else {
            return;
        };
        let has_one = |prefix: &&str| id.strip_prefix(*prefix).is_some_and(|rest| rest.starts_with('|'));
        if !prefixes.iter().any(has_one) {
            let message = format!("`{}` names `{kind}::{id:?}`, and tokens name none without a prefix", text.id);
            let problem = shelf.problem(text, Some(&format!("{id:?}")), message);
            let written: Vec<_> = prefixes.iter().map(|prefix| format!("`{kind}::\"{prefix}|…\"`")).collect();
            self.note(Lint::IdWithoutPrefix, &text.id, problem.fix(format!("write {}", written.join(" or "))));
        }
    }

    /// Whether it can apply, what it reads, and whether it can err.
    fn reach(&mut self, shelf: &Shelf<'_>, text: &Text) {
        let in_scope: Vec<_> = shelf.asked.iter().filter(|asked| asked.is_in_scope(text)).collect();
        let applies = in_scope.iter().any(|asked| asked.can_apply(text));
        let mut unsupplied: Vec<Vec<String>> = Vec::new();
        for place in text.expressions().into_iter().filter_map(place).filter(|place| place.len() > 1) {
            let never = in_scope.iter().all(|asked| asked.mapping.supply(asked.plan, &place) == Supply::Never);
            let is_told = unsupplied.iter().any(|other| other.starts_with(&place) || place.starts_with(other));
            if !in_scope.is_empty() && never && !is_told {
                unsupplied.push(place);
            }
        }
        let so = if applies { "" } else { ": it can never apply" };
        for place in &unsupplied {
            let name = place.join(".");
            let message = format!("`{}` reads `{name}`, which no route supplies{so}", text.id);
            let fix =
                "supply it (`attributes`, `input`, `purpose`, `entities.files` or a source), or remove what reads it";
            self.note(Lint::UnsuppliedRead, &text.id, shelf.problem(text, Some(&name), message).fix(fix));
        }
        if !applies && unsupplied.is_empty() {
            let (lint, what) = match text.effect {
                Effect::Permit => (Lint::InertPermit, "permit"),
                Effect::Forbid => (Lint::InertForbid, "forbid"),
            };
            let why =
                if in_scope.is_empty() { "no route makes what its scope names" } else { "its conditions cannot hold" };
            let problem = shelf.problem(text, None, format!("the {what} `{}` can never apply: {why}", text.id));
            self.note(lint, &text.id, problem.fix("compare its action, types and ids with `routes`, or remove it"));
        }
        let faults = if text.effect == Effect::Forbid { errs::faults(text, &in_scope) } else { Vec::new() };
        if !faults.is_empty() {
            let message = format!("the forbid `{}` can err: {}", text.id, faults.join(", "));
            let fix = "an error denies here, and is passed over elsewhere: ask with `has` first, or compare instead";
            self.note(Lint::FallibleForbid, &text.id, shelf.problem(text, None, message).fix(fix));
        }
    }

    /// Scopes that are looked for where they are not, and those that nobody has.
    fn scopes(&mut self, shelf: &Shelf<'_>, text: &Text) {
        let blueprint = &self.compiled.blueprint;
        let granted = blueprint.mapping.scopes_of_clients();
        let prefixes: Vec<_> = blueprint.trust.rules.iter().filter_map(|rules| rules.scope_prefix()).collect();
        let mut found = Vec::new();
        let wanted = text.expressions().into_iter().filter_map(texts_wanted);
        for (place, scope) in wanted.flat_map(|(place, all)| all.into_iter().map(move |text| (place.clone(), text))) {
            let of_token = place.starts_with(&["context".to_owned(), "token".to_owned()]);
            let is_scopes = matches!(place.last().map(String::as_str), Some("scope" | "scopes" | "scp"));
            let possible = is_scope(scope) && granted.as_ref().is_none_or(|granted| granted.contains(&scope));
            let is_ours = prefixes.iter().any(|prefix| scope.trim().starts_with(*prefix));
            let quoted = format!("{scope:?}");
            let (lint, message, fix) = if of_token && is_scopes && !possible {
                let message = format!("`{}` wants the scope `{scope}`, which no token can hold", text.id);
                (Lint::UngrantedScope, message, "a scope holds no blank, and `clients` lists those that count")
            } else if !of_token && (is_scopes || is_ours) {
                let place = place.join(".");
                let message = format!("`{}` looks for the scope `{scope}` in `{place}`, not in the token", text.id);
                (Lint::ScopeNotOfToken, message, "it says nothing of the token: ask `context.token.scope.contains(…)`")
            } else {
                continue;
            };
            found.push((lint, shelf.problem(text, Some(&quoted), message).fix(fix)));
        }
        for (lint, problem) in found {
            self.note(lint, &text.id, problem);
        }
    }

    /// Users' ids compared as text, where two issuers may give one id to two people.
    fn users_as_text(&mut self, shelf: &Shelf<'_>, text: &Text) {
        let mut issuers: Vec<_> = self.compiled.blueprint.trust.rules.iter().map(|rules| &rules.user_issuer).collect();
        issuers.sort();
        issuers.dedup();
        if issuers.len() < 2 {
            return;
        }
        for expression in text.expressions() {
            let Some(("==" | "contains", operands)) = operator(expression) else { continue };
            let named = [operands.get("left"), operands.get("right")].into_iter().flatten().filter_map(place);
            let of_user = |place: &Vec<String>| match &place.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["context", "token" | "onBehalfOf", .., last] => USER_IDS.contains(last),
                _ => false,
            };
            if let Some(place) = named.into_iter().find(of_user) {
                let name = place.join(".");
                let message = format!("`{}` compares `{name}` as text, and users are of several issuers", text.id);
                let fix = "one id may be two people: compare entities, as in `resource.owner == context.onBehalfOf`";
                self.note(Lint::UserIdAsText, &text.id, shelf.problem(text, Some(&name), message).fix(fix));
            }
        }
    }
}
