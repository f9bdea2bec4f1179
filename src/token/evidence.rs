//! What vouches for an issuer's tokens: its signature, or its word when it is asked.

use std::{path::PathBuf, sync::Arc, time::Duration};

use url::Url;

use super::{
    algorithm::Algorithm,
    client_auth::ClientAuth,
    introspection::Introspection,
    issuer::{IssuerConfig, IssuerSettings, TransportWaiver},
    jwks::KeySet,
    key_source::KeySource,
    keys::Settings,
    profile::Profile,
};
use crate::base::{
    digest::sha256,
    fetch::Transport,
    files::Files,
    problem::{Problem, Problems, bounded},
    spanned::Spanned,
};

/// What vouches for an issuer's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Its signature.
    Signature {
        /// What it may sign with.
        algorithms: Vec<Algorithm>,
        /// Where its keys come from.
        source: KeySource,
        /// How they are kept.
        ring: Settings,
    },
    /// Its word, when asked.
    Introspection(Introspection),
}

impl Evidence {
    /// Compiles what an entry says of it; a key file is read to see that it holds keys.
    pub(super) fn compile(config: &IssuerConfig, files: &Files) -> Result<Self, Problems> {
        let settings = config.settings();
        match config {
            IssuerConfig::Introspection(_) => {
                no_keys(settings)?;
                introspection(settings, files).map(Self::Introspection)
            }
            _ => {
                no_questions(settings)?;
                signature(config.profile(), settings, files)
            }
        }
    }
}

/// Settings that mean nothing are mistaken for settings that do something.
fn no_keys(settings: &IssuerSettings) -> Result<(), Problem> {
    let meant = [
        ("jwks_uri", settings.jwks_uri.is_some()),
        ("jwks_file", settings.jwks_file.is_some()),
        ("jwks", settings.jwks.is_some()),
        ("jwks_copy", settings.jwks_copy.is_some()),
        ("algorithms", settings.algorithms.is_some()),
        ("refresh_interval_s", settings.refresh_interval_s.is_some()),
        ("cooldown_s", settings.cooldown_s.is_some()),
        ("unknown_key_s", settings.unknown_key_s.is_some()),
        ("stale_max_s", settings.stale_max_s.is_some()),
    ];
    unmeant(settings, &meant, "an issuer that is asked about its tokens has no keys")
}

fn no_questions(settings: &IssuerSettings) -> Result<(), Problem> {
    let meant = [
        ("introspection_uri", settings.introspection_uri.is_some()),
        ("client_id", settings.client_id.is_some()),
        ("client_secret", settings.client_secret.is_some()),
        ("private_key", settings.private_key.is_some()),
        ("private_key_id", settings.private_key_id.is_some()),
        ("token_prefix", settings.token_prefix.is_some()),
        ("questions_max", settings.questions_max.is_some()),
        ("cache_max_s", settings.cache_max_s.is_some()),
    ];
    unmeant(settings, &meant, "an issuer that signs its tokens is not asked about them")
}

fn unmeant(settings: &IssuerSettings, meant: &[(&str, bool)], why: &str) -> Result<(), Problem> {
    match meant.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Problem::at(&settings.issuer, format!("`{name}`: {why}"))
            .fix(format!("remove `{name}`, or choose another profile"))),
        None => Ok(()),
    }
}

fn signature(profile: &Profile, settings: &IssuerSettings, files: &Files) -> Result<Evidence, Problems> {
    let mut problems = Problems::default();
    let source = problems.keep(key_source(settings, files));
    problems.keep(settings.jwks_copy.as_ref().map_or(Ok(()), |copy| worth_keeping(copy, source.as_ref())));
    let algorithms = problems.keep(algorithms(profile, settings));
    let ring = problems.keep(ring(settings));
    let whole = (|| Some(Evidence::Signature { algorithms: algorithms?, source: source?, ring: ring? }))();
    problems.into_result(whole)
}

fn introspection(settings: &IssuerSettings, files: &Files) -> Result<Introspection, Problems> {
    let mut problems = Problems::default();
    let issuer = &settings.issuer;
    let endpoint = problems.keep(match &settings.introspection_uri {
        Some(uri) => fetchable(uri, transport(settings), "cannot be asked"),
        None => Err(Problem::at(issuer, "nothing says where this issuer is asked about tokens")
            .fix("give `introspection_uri`, which its metadata calls `introspection_endpoint`")),
    });
    let client = problems.keep(client(settings, files));
    let cache_max = problems.keep(bounded(settings.cache_max_s.as_ref(), "cache_max_s", 60, 1..=3_600));
    let patience = problems.keep(bounded(settings.fetch_timeout_ms.as_ref(), "fetch_timeout_ms", 3_000, 10..=60_000));
    let places = problems.keep(bounded(settings.questions_max.as_ref(), "questions_max", 64, 1..=10_000));
    let prefix = problems.keep(match &settings.token_prefix {
        Some(prefix) if prefix.value.is_empty() || !prefix.value.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Problem::at(prefix, "no token begins with this")
                .fix("write the first characters of the tokens, as in `opq_`"))
        }
        prefix => Ok(prefix.as_ref().map(|prefix| prefix.value.clone())),
    });
    let whole = (|| {
        Some(Introspection {
            endpoint: endpoint?,
            client: Arc::new(client?),
            prefix: prefix?,
            cache_max: Duration::from_secs(cache_max?),
            patience: Duration::from_millis(patience?),
            places: places?,
        })
    })();
    problems.into_result(whole)
}

fn client(settings: &IssuerSettings, files: &Files) -> Result<ClientAuth, Problem> {
    let Some(client_id) = settings.client_id.as_ref().filter(|id| !id.value.is_empty()) else {
        return Err(Problem::at(&settings.issuer, "nothing says who the gate is to this issuer")
            .fix("register the gate as a client there and give its `client_id`"));
    };
    match (&settings.client_secret, &settings.private_key) {
        (Some(secret), None) => Ok(ClientAuth::secret(&client_id.value, &secret.read(files)?)),
        (None, Some(key)) => {
            let key_id = settings.private_key_id.as_deref();
            ClientAuth::private_key(&client_id.value, &key.read(files)?, key_id).ok_or_else(|| {
                Problem::at(client_id, "its `private_key` is none that can sign")
                    .fix("give a PKCS #8 key in PEM: P-256, P-384, RSA or Ed25519")
            })
        }
        _ => Err(Problem::at(client_id, "the gate must show who it is in one way")
            .fix("give `client_secret` or `private_key`, as `{ file: … }` or `{ env: … }`")),
    }
}

fn issuer_url(issuer: &Spanned<String>, transport: Transport) -> Result<Url, Problem> {
    let url = Url::parse(&issuer.value).ok().filter(|url| transport.admits(url));
    url.filter(|url| url.query().is_none() && url.fragment().is_none()).ok_or_else(|| {
        Problem::at(issuer, format!("nothing can be discovered at issuer `{}`", issuer.value)).fix(
            "that takes an https URL without query or fragment; else say where its keys are: `jwks_uri`, `jwks_file` or `jwks`",
        )
    })
}

const JWK_SET: &str = "give a JWK set (RFC 7517) of public keys";

const fn transport(settings: &IssuerSettings) -> Transport {
    match settings.transport {
        Some(TransportWaiver::AcceptPlainHttp) => Transport::PlainHttp,
        None => Transport::Trustworthy,
    }
}

fn fetchable(uri: &Spanned<String>, transport: Transport, cannot: &str) -> Result<Url, Problem> {
    Url::parse(&uri.value).ok().filter(|url| transport.admits(url)).ok_or_else(|| {
        Problem::at(uri, format!("`{}` {cannot}", uri.value)).fix(
            "use an https URL; http is for loopback addresses only, unless you must: `transport: accept_plain_http`",
        )
    })
}

fn key_source(settings: &IssuerSettings, files: &Files) -> Result<KeySource, Problem> {
    let transport = transport(settings);
    match (&settings.jwks_uri, &settings.jwks_file, &settings.jwks) {
        (Some(uri), None, None) => fetchable(uri, transport, "is no place to fetch keys from").map(KeySource::Url),
        (None, Some(file), None) => {
            let text = files.read(&file.value).map_err(|error| Problem::unreadable(file, &error))?;
            let checked = KeySet::parse(text.as_bytes());
            checked.map_err(|error| Problem::at(file, error.to_string()).fix(JWK_SET))?;
            Ok(KeySource::File { path: file.value.clone(), digest: sha256(text.as_bytes()) })
        }
        (None, None, Some(keys)) => {
            let text = keys.value.to_string();
            KeySet::parse(text.as_bytes()).map_err(|error| Problem::at(keys, error.to_string()).fix(JWK_SET))?;
            Ok(KeySource::Inline(text))
        }
        (None, None, None) => {
            let issuer = issuer_url(&settings.issuer, transport)?;
            // OpenID Connect Discovery 1.0 section 4.1, RFC 8414 section 3.1.
            let path = issuer.path().trim_end_matches('/');
            let metadata = [
                format!("{path}/.well-known/openid-configuration"),
                format!("/.well-known/oauth-authorization-server{path}"),
            ];
            let metadata = metadata.map(|path| {
                let mut url = issuer.clone();
                url.set_path(&path);
                url
            });
            Ok(KeySource::Discovery { issuer: settings.issuer.value.clone(), metadata, transport })
        }
        (uri, file, keys) => {
            let message = "keys from more than one place";
            let first = uri.as_ref().map(|uri| Problem::at(uri, message));
            let first = first.or_else(|| file.as_ref().map(|file| Problem::at(file, message)));
            let first = first.or_else(|| keys.as_ref().map(|keys| Problem::at(keys, message)));
            Err(first.unwrap_or_else(|| Problem::new(message)).fix("keep one of `jwks_uri`, `jwks_file` and `jwks`"))
        }
    }
}

fn worth_keeping(copy: &Spanned<PathBuf>, source: Option<&KeySource>) -> Result<(), Problem> {
    match source {
        Some(KeySource::File { .. } | KeySource::Inline(_)) => {
            Err(Problem::at(copy, "a copy of keys that are at hand").fix("remove `jwks_copy`"))
        }
        _ => Ok(()),
    }
}

fn algorithms(profile: &Profile, settings: &IssuerSettings) -> Result<Vec<Algorithm>, Problem> {
    match &settings.algorithms {
        Some(some) if some.value.is_empty() => {
            Err(Problem::at(some, "no algorithm is allowed").fix("name at least one, or leave the setting out"))
        }
        Some(some) => Ok(some.value.clone()),
        None => Ok(profile.algorithms.to_vec()),
    }
}

fn ring(settings: &IssuerSettings) -> Result<Settings, Problems> {
    let mut problems = Problems::default();
    let default = Settings::default();
    let mut seconds = |value: &Option<Spanned<u64>>, name, default: Duration, range| {
        problems.keep(bounded(value.as_ref(), name, default.as_secs(), range)).map(Duration::from_secs)
    };
    let refresh_interval =
        seconds(&settings.refresh_interval_s, "refresh_interval_s", default.refresh_interval, 1..=86_400);
    let cooldown = seconds(&settings.cooldown_s, "cooldown_s", default.cooldown, 1..=3_600);
    let absent = seconds(&settings.unknown_key_s, "unknown_key_s", default.absent, 1..=3_600);
    let stale_max = seconds(&settings.stale_max_s, "stale_max_s", default.stale_max, 1..=604_800);
    let fetch_timeout =
        problems.keep(bounded(settings.fetch_timeout_ms.as_ref(), "fetch_timeout_ms", 3_000, 10..=60_000));
    let ring = (|| {
        Some(Settings {
            refresh_interval: refresh_interval?,
            cooldown: cooldown?,
            fetch_timeout: Duration::from_millis(fetch_timeout?),
            stale_max: stale_max?,
            absent: absent?,
            copy: settings.jwks_copy.as_ref().map(|copy| copy.value.clone()),
        })
    })();
    problems.into_result(ring)
}
