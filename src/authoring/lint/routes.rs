//! Oddities of routes: actions that nobody can ask for, requests that nobody can be allowed.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map::Entry};

use http::Method;

use super::{Desk, Lint};
use crate::{
    base::problem::Problem,
    entities::{RouteConfig, RoutePlan},
    policy::{Effect, reads::Text},
    token::claims::is_scope,
};

impl Desk<'_> {
    pub(super) fn routes(&mut self) {
        self.unrouted();
        self.unpermitted();
        self.scopes_of_routes();
        self.one_operation();
    }

    fn unrouted(&mut self) {
        let blueprint = &self.compiled.blueprint;
        let plans = blueprint.routes.routes().iter();
        let routed: HashSet<_> = plans.map(|plan| plan.action_name().to_string()).collect();
        for action in blueprint.mapping.actions() {
            if !routed.contains(&action) {
                let problem = Problem::new(format!("the schema has an action `{action}`, and no route stands for it"));
                let fix = "give it a route, or remove it: what policies say of it has no effect";
                self.note(Lint::UnroutedAction, &action, problem.fix(fix));
            }
        }
    }

    /// Routes that no store that may decide can allow.
    fn unpermitted(&mut self) {
        let configs: HashMap<_, _> = {
            let plans = self.compiled.blueprint.routes.routes().iter();
            plans.map(|plan| plan.name().clone()).zip(&self.config.routes.value).collect()
        };
        let mut open = BTreeMap::new();
        for (shelf, asked) in self.shelves.iter().flat_map(|shelf| shelf.asked.iter().map(move |asked| (shelf, asked)))
        {
            let allows =
                |text: &Text| text.effect == Effect::Permit && asked.is_in_scope(text) && asked.can_apply(text);
            let forbids = |text: &&Text| text.effect == Effect::Forbid && asked.always_applies(text);
            let forbidden = shelf.texts.iter().find(forbids).map(|text| text.id.clone());
            let why = match forbidden {
                Some(id) => Some(format!("`{id}` forbids it, whatever else holds")),
                None => (!shelf.texts.iter().any(allows)).then(|| "no permit can ever allow it".to_owned()),
            };
            // One store that can allow it is enough.
            let key = (asked.plan.name().clone(), asked.side.name());
            match (open.entry(key), why) {
                (Entry::Vacant(entry), why) => drop(entry.insert(why)),
                (Entry::Occupied(mut entry), None) => drop(entry.insert(None)),
                (Entry::Occupied(_), Some(_)) => {}
            }
        }
        for ((name, side), why) in open {
            if let (Some(why), Some(config)) = (why, configs.get(&name)) {
                let problem = Problem::at(&config.action, format!("`{name}` is never allowed to the {side}: {why}"));
                let problem = problem.fix("write a permit for its action, or remove the route");
                self.note(Lint::UnpermittedRoute, &*name, self.within_config(problem));
            }
        }
    }

    fn scopes_of_routes(&mut self) {
        let granted = self.compiled.blueprint.mapping.scopes_of_clients();
        let mut found = Vec::new();
        for (plan, config) in self.compiled.blueprint.routes.routes().iter().zip(&self.config.routes.value) {
            if self.compiled.blueprint.mapping.scope_is_text(plan) {
                let message = format!("the schema makes `context.token.scope` of `{}` one text", plan.action_name());
                let fix = "several scopes stand in it side by side: make it `Set<String>`, and ask `.contains(…)`";
                found.push((Lint::ScopeIsText, plan.name().to_string(), Problem::new(message).fix(fix)));
            }
            let Some(scope) = &config.scope else { continue };
            if !is_scope(&scope.value) || granted.as_ref().is_some_and(|granted| !granted.contains(&&*scope.value)) {
                let message = format!("no client may use the scope `{}`", scope.value);
                let problem = Problem::at(scope, message).fix("name it among the `scopes` of a client");
                found.push((Lint::UngrantedScope, plan.name().to_string(), problem));
            }
        }
        for (lint, name, problem) in found {
            self.note(lint, name, self.within_config(problem));
        }
    }

    /// Requests that a service is likely to take for the same operation, and that are two actions here.
    fn one_operation(&mut self) {
        let routes = self.config.routes.value.iter().zip(self.compiled.blueprint.routes.routes());
        let mut alike: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (route, plan) in routes {
            alike.entry(operation(&route.path.value)).or_default().push((route, plan));
        }
        let mut found = Vec::new();
        for group in alike.values() {
            for (index, (other, of_other)) in group.iter().enumerate() {
                let earlier = group.iter().take(index);
                let twin = |(route, plan): &&(&RouteConfig, &RoutePlan)| {
                    share_requests(route, other) && plan.action() != of_other.action()
                };
                if let Some((_, plan)) = earlier.into_iter().find(twin) {
                    let message = format!(
                        "`{}` and `{}` are likely one operation of the service, and two actions here: {} and {}",
                        plan.name(),
                        of_other.name(),
                        plan.action_name(),
                        of_other.action_name()
                    );
                    let fix = "who is refused by one would go by the other: give both one action";
                    found.push((of_other.name().to_string(), Problem::at(&other.path, message).fix(fix)));
                }
            }
        }
        for (name, problem) in found {
            self.note(Lint::TwoActionsOneOperation, name, self.within_config(problem));
        }
    }

    fn within_config(&self, problem: Problem) -> Problem {
        problem.within(&self.compiled.source)
    }
}

/// A path as careless services read it: without case, without a slash at its end, whatever its parameters are called.
fn operation(path: &str) -> String {
    let segments = path.trim_end_matches('/').split('/').map(|it| if it.starts_with('{') { "{}" } else { it });
    let decoded = segments.collect::<Vec<_>>().join("/");
    percent_encoding::percent_decode_str(&decoded).decode_utf8_lossy().to_lowercase()
}

/// Whether two routes are for one method at one host. `HEAD` is a `GET` without the answer's body.
fn share_requests(one: &RouteConfig, other: &RouteConfig) -> bool {
    let has = |route: &RouteConfig, host: &str| route.hosts.is_empty() || route.hosts.iter().any(|it| it.value == host);
    let share_a_host = one.hosts.is_empty() || one.hosts.iter().any(|host| has(other, &host.value));
    let methods = |route: &RouteConfig| -> Vec<String> {
        let named = route.methods.value.iter().map(|method| method.value.clone());
        named.map(|name| if name == Method::HEAD.as_str() { Method::GET.to_string() } else { name }).collect()
    };
    let others = methods(other);
    share_a_host && methods(one).iter().any(|method| others.contains(method))
}
