//! Named sets of policies under one schema, chosen by route or by host.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Policies, load::Settings};
use crate::base::{
    names::is_host,
    problem::{Problem, Problems, bounded},
    spanned::Spanned,
};

/// The store that `policies` names.
pub const DEFAULT: &str = "default";

/// Any host that no other store names.
const ANY_HOST: &str = "*";

/// An entry of `stores`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Its name, for routes and records. `default` is the store that `policies` names.
    pub name: Spanned<String>,
    /// The folder with its `*.cedar`; the schema is that of `policies`. Required, but for `default`.
    pub folder: Option<Spanned<PathBuf>>,
    /// The hosts whose requests it decides, where their route names no store; `*` for any other.
    #[serde(default)]
    pub hosts: Vec<Spanned<String>>,
    /// What a policy in scope that errs makes of a decision. Default: a denial.
    #[serde(default)]
    pub on_error: OnError,
    /// How many steps away from principal, resource and context policies may look (RFC 76 of Cedar). Default: any.
    pub level_max: Option<Spanned<u32>>,
}

/// What a policy in scope that errs makes of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// A denial, whatever other policies say.
    #[default]
    Deny,
    /// Nothing: it is passed over, a `forbid` too, as Cedar does it.
    AcceptSkippedPolicies,
}

impl StoreConfig {
    pub(super) fn settings(&self) -> Result<Settings, Problem> {
        let level_max =
            self.level_max.as_ref().map(|level| bounded(Some(level), "level_max", 0, 1..=64)).transpose()?;
        Ok(Settings { on_error: self.on_error, level_max })
    }
}

/// A store.
#[derive(Debug)]
pub struct Store {
    /// Its place among the stores.
    pub number: usize,
    /// Its name, where it is not [`DEFAULT`].
    pub name: Option<Arc<str>>,
    /// What is in it.
    pub policies: Policies,
}

/// Every store.
#[derive(Debug)]
pub struct Stores {
    stores: Vec<Store>,
    by_host: HashMap<String, usize>,
    /// For any other host; none where hosts are named and this one is not.
    other: Option<usize>,
}

impl Stores {
    /// Puts stores together; the first is the default one.
    pub(super) fn new(mut stores: Vec<Store>, configs: &[StoreConfig]) -> Result<Self, Problems> {
        stores.iter_mut().enumerate().for_each(|(number, store)| store.number = number);
        let mut problems = Problems::default();
        let (mut by_host, mut other) = (HashMap::new(), None);
        let index = |name: &str| stores.iter().position(|store| store.name.as_deref().unwrap_or(DEFAULT) == name);
        for config in configs {
            let Some(index) = index(&config.name.value) else { continue };
            for host in &config.hosts {
                let earlier = match host.value.as_str() {
                    ANY_HOST => other.replace(index),
                    name if is_host(name) => by_host.insert(name.to_owned(), index),
                    _ => {
                        problems.push(
                            Problem::at(host, "not a host")
                                .fix("write it in lower case, without port; `*` for any other"),
                        );
                        continue;
                    }
                };
                if earlier.is_some() {
                    problems.push(Problem::at(host, "this host stands twice").fix("leave it with one store"));
                }
            }
        }
        if by_host.is_empty() {
            // Where no host is named, the host makes no difference.
            other.get_or_insert(0);
        }
        problems.into_result(Some(Self { stores, by_host, other }))
    }

    /// Whether the host that a client addresses makes a difference.
    pub fn depend_on_host(&self) -> bool {
        !self.by_host.is_empty()
    }

    /// Whether there is a store of this name.
    pub fn has(&self, name: &str) -> bool {
        self.named(Some(name)).is_some()
    }

    /// Names the version of the policies of each store, by its name.
    pub fn revisions(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        let stores = self.stores.iter();
        let named = stores.map(|store| (store.name.clone().unwrap_or_else(|| DEFAULT.into()), &store.policies));
        named.map(|(name, policies)| (name, policies.revision().clone())).collect()
    }

    /// Each store.
    pub fn iter(&self) -> impl Iterator<Item = &Store> {
        self.stores.iter()
    }

    /// All policies of all stores.
    pub fn len(&self) -> usize {
        self.stores.iter().map(|store| store.policies.len()).sum()
    }

    /// Whether there is no policy, so that nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The store that decides: the one that the route names, or else that of the host. `None` where no store decides for it.
    pub fn choose(&self, named: Option<&str>, host: impl FnOnce() -> Option<String>) -> Option<&Store> {
        if named.is_some() {
            return self.named(named);
        }
        if !self.depend_on_host() {
            return self.stores.get(self.other?);
        }
        let index = host().and_then(|host| self.by_host.get(&host).copied()).or(self.other)?;
        self.stores.get(index)
    }

    /// The store of this name, or the default one.
    pub fn named(&self, name: Option<&str>) -> Option<&Store> {
        let name = name.unwrap_or(DEFAULT);
        self.stores.iter().find(|store| store.name.as_deref().unwrap_or(DEFAULT) == name)
    }
}
