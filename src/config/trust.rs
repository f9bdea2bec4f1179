//! Whom the configuration trusts: issuers that cannot be mixed up, proofs that can be made, the deny-list.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use super::{
    Loaded,
    tls::{ClientCertificate, TlsConfig},
};
use crate::{
    base::{
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    entities::profile::ProfileConfig,
    token::{
        binding::Binding,
        deny_list::{Denials, DenyFile, DenyListError},
        dpop::ProofSettings,
        issuer::Rules,
    },
};

impl Loaded {
    pub(super) fn issuers(&self) -> Result<Vec<Rules>, Problems> {
        let mut problems = Problems::default();
        let configured = &self.config.issuers;
        if configured.value.is_empty() {
            problems
                .push(Problem::at(configured, "no issuer: nobody could come in").fix("name whose tokens are believed"));
        }
        let mut seen = HashSet::new();
        let (mut prefixes, mut users) = (HashMap::new(), HashMap::new());
        let names: HashSet<_> = configured.value.iter().map(|issuer| &issuer.settings().issuer.value).collect();
        let (mut copies, mut issuers) = (HashSet::new(), Vec::new());
        for issuer in &configured.value {
            let copy = issuer.settings().jwks_copy.as_ref();
            let place = |copy: &Spanned<PathBuf>| self.files.real(&copy.value).unwrap_or_else(|_| copy.value.clone());
            if let Some(shared) = copy.filter(|copy| !copies.insert(place(copy))) {
                problems.push(
                    Problem::at(shared, "two issuers' keys would be kept in one file, each in the other's place")
                        .fix("give each a `jwks_copy` of its own"),
                );
            }
            let name = &issuer.settings().issuer;
            let Some(rules) = problems.keep(Rules::compile(issuer, &self.files)) else { continue };
            match rules.asked_about() {
                // One issuer may both sign tokens and be asked about others.
                None if !seen.insert((name.value.clone(), None)) => problems.push(
                    Problem::at(name, format!("issuer `{}` stands twice", name.value)).fix("merge the two entries"),
                ),
                Some(prefix) if !seen.insert((String::new(), Some(prefix.to_owned()))) => problems.push(
                    Problem::at(name, "two issuers would be asked about one token")
                        .fix("give each a `token_prefix` of its own"),
                ),
                _ => {}
            }
            if self.config.entities.profile == ProfileConfig::Avp && rules.agent_id_prefix().is_none() {
                problems.push(
                    Problem::at(name, "Verified Permissions knows principals as `<pool id>|<sub>`")
                        .fix("add `agent_id_prefix`: the pool id, or the prefix of the identity source"),
                );
            }
            let prefix = rules.agent_id_prefix().map(str::to_owned);
            let is_shared = *prefixes.entry(prefix).or_insert(&name.value) != &name.value;
            let users =
                users.entry(rules.user_id_prefix().map(str::to_owned)).or_insert_with(|| rules.user_issuer.clone());
            if *users != rules.user_issuer {
                problems.push(
                    Problem::at(name, "two issuers' users share a `user_id_prefix`: one id could name two people")
                        .fix("give each its own; or, if they are the same users, say whose: `user_issuer`"),
                );
            }
            if names.len() > 1 && (!rules.has_id_prefixes() || is_shared) {
                problems.push(
                    Problem::at(name, "with several issuers, one id could name two people")
                        .fix("give each issuer an `agent_id_prefix` of its own, and a `user_id_prefix` that names the users' pool"),
                );
            }
            issuers.push(rules);
        }
        problems.into_result(Some(issuers))
    }

    pub(super) fn proofs(&self) -> Result<ProofSettings, Problems> {
        let config = &self.config;
        let proofs = ProofSettings::compile(&config.origins, config.dpop_nonce_secret.as_ref(), &self.files)?;
        let shows = !self.serves || self.asks_for_certificates();
        let bound = config.issuers.value.iter().filter_map(|issuer| issuer.settings().certificate_binding.as_ref());
        if let Some(bound) = bound.into_iter().find(|bound| !shows && bound.value != Binding::Off) {
            return Err(Problem::at(bound, "no client shows a certificate, so no token bound to one can come in")
                .fix("add `tls: { …, client_certificate: accepted }`")
                .into());
        }
        let asked = config.issuers.value.iter().filter_map(|issuer| issuer.settings().dpop.as_ref());
        match asked.into_iter().find(|asked| asked.value != Binding::Off) {
            Some(asked) if !proofs.has_origins() => {
                Err(Problem::at(asked, "nothing says for which address a DPoP proof must be made")
                    .fix("add `origins`: scheme, host and port as clients write them, as in `https://api.example`")
                    .into())
            }
            _ => Ok(proofs),
        }
    }

    /// Whether clients may show a certificate anywhere.
    pub(super) fn asks_for_certificates(&self) -> bool {
        let asks = |tls: TlsConfig| tls.client_certificate.is_some_and(|it| it.value != ClientCertificate::Off);
        self.config.listeners().any(|listener| listener.tls.is_some_and(asks))
    }

    pub(super) fn denied(&self) -> Result<Option<(Denials, DenyFile)>, Problem> {
        let Some(named) = &self.config.deny_list else { return Ok(None) };
        // It has a watcher of its own.
        let file = DenyFile { files: self.files.unobserved(), path: named.value.clone() };
        let failed = |error: DenyListError| {
            Problem::at(named, format!("no deny-list in `{}`: {error}", named.value.display()))
                .fix("give a file with a JSON object on each line; an empty one denies nobody")
        };
        Ok(Some((file.read().map_err(failed)?, file)))
    }
}
