//! What TLS to an upstream is made of: the authorities that vouch for it, and the certificate it is shown.

use std::sync::Arc;

use moka::sync::Cache;
use pingora_core::{
    protocols::tls::CaType,
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    base::{
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    forward::{
        Pool, Upstreams,
        pool::USUAL,
        upstream::{Http2, Upstream, UpstreamTls},
    },
};

/// What TLS to one upstream is made of.
pub(super) struct Trust {
    /// As pingora takes the authorities; `None` for those of the machine.
    pub(super) authorities: Option<Arc<CaType>>,
    /// As pingora takes the certificate that is shown.
    pub(super) shown: Option<Arc<CertKey>>,
    /// The same for whoever else dials.
    pub(super) client: Arc<ClientConfig>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

/// What is kept of it, by whose connections it is for.
#[derive(Clone, Debug)]
pub(super) struct Trusts(Cache<u64, Arc<Trust>>);

/// More than configurations have upstreams, also over a few reloads.
const KEPT_MAX: u64 = 1024;

impl Default for Trusts {
    fn default() -> Self {
        Self(Cache::new(KEPT_MAX))
    }
}

impl Trusts {
    /// That of `pool`; `None` where no TLS is spoken to it.
    ///
    /// # Errors
    /// What is wrong with its files, for operators. A configuration in force has been [`check`]ed for that.
    pub(super) fn of(&self, pool: &Pool) -> Result<Option<Arc<Trust>>, String> {
        let upstream = pool.upstream();
        let Some(tls) = &upstream.tls else { return Ok(None) };
        let compile = || Trust::compile(upstream, tls).map(Arc::new).map_err(|error| error.value);
        let made = self.0.try_get_with(pool.group(), compile);
        made.map(Some).map_err(|error: Arc<String>| error.to_string())
    }
}

/// Finds what is wrong with the certificates and keys of `upstreams`.
///
/// # Errors
/// Every [`Problem`] there is.
pub fn check(upstreams: &Upstreams) -> Result<(), Problems> {
    let mut problems = Problems::default();
    let usual = std::iter::once((USUAL.to_owned(), &upstreams.usual));
    let named = upstreams.named.iter().map(|(name, upstream)| (format!("upstreams.{name}"), upstream));
    for (name, upstream) in usual.chain(named) {
        if let Some(Err(error)) = upstream.tls.as_ref().map(|tls| Trust::compile(upstream, tls)) {
            problems.push(Problem::at(&error, format!("`{name}.tls`: {}", error.value)));
        }
    }
    problems.into_result(Some(()))
}

impl Trust {
    /// # Errors
    /// What is wrong, and where it is configured.
    fn compile(upstream: &Upstream, tls: &UpstreamTls) -> Result<Self, Spanned<String>> {
        let mut roots = RootCertStore::empty();
        let authorities = match &tls.authorities {
            Some(pem) => {
                let odd = |error: String| pem.leads_to(format!("`authorities`: {error}"));
                let authorities = certificates(&pem.value).map_err(odd)?;
                for authority in &authorities {
                    roots.add(authority.clone()).map_err(|error| odd(error.to_string()))?;
                }
                Some(wrapped(authorities).collect())
            }
            None => {
                let loaded = pingora_rustls::load_platform_certs_incl_env_into_store(&mut roots);
                loaded.map_err(|error| Spanned::nowhere(error.to_string()))?;
                None
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Spanned::nowhere(error.to_string()))?
            .with_root_certificates(roots);
        let (mut client, shown) = match &tls.shown {
            None => (builder.with_no_client_auth(), None),
            Some((pem, key)) => {
                let odd = |what: &str, error: String| pem.leads_to(format!("{what}: {error}"));
                let odd_key = |error: String| odd("`private_key`", error);
                let chain = certificates(&pem.value).map_err(|error| odd("`certificate`", error))?;
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
                let key = key.map_err(|error| odd_key(error.to_string()))?;
                let bare = key.secret_der().to_vec();
                // pingora is handed no more than the bytes, and tells of them what kind of key they are.
                PrivateKeyDer::try_from(bare.clone()).map_err(|error| odd_key(error.to_string()))?;
                let client = builder.with_client_auth_cert(chain.clone(), key);
                let client = client.map_err(|error| odd("`certificate` and `private_key`", error.to_string()))?;
                let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
                (client, Some(Arc::new(CertKey::new(chain, bare))))
            }
        };
        client.alpn_protocols = match upstream.http2 {
            Http2::Off => vec![b"http/1.1".to_vec()],
            Http2::Offered => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Http2::Only => vec![b"h2".to_vec()],
        };
        Ok(Self { authorities, shown, client: Arc::new(client) })
    }
}

/// The certificates in `pem`, each of which can be read: pingora panics where one cannot.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err("holds no certificate in PEM".into());
    }
    for certificate in &found {
        X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    }
    Ok(found)
}

fn wrapped(certificates: Vec<CertificateDer<'static>>) -> impl Iterator<Item = WrappedX509> {
    certificates.into_iter().map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509))
}
