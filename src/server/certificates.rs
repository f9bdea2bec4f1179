//! The gate's certificates, chosen by the name that a client asks for (SNI, RFC 6066 section 3): one with that name goes before
//! one with a wildcard for it.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::x509;
use crate::{
    base::{
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    config::tls::{CertificateFiles, TlsFiles, UnknownName},
};

/// Certificates with their keys.
#[derive(Debug)]
pub(super) struct Certificates {
    /// By names, in lower case; a wildcard with its `*`.
    named: HashMap<String, Arc<CertifiedKey>>,
    /// For whoever asks for no name that is known.
    other: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Those of `files`.
    ///
    /// # Errors
    /// Every [`Problem`] they have.
    pub(super) fn load(files: &TlsFiles, provider: &CryptoProvider) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut named = HashMap::new();
        let mut first = None;
        for (index, files_of_one) in files.certificates.iter().enumerate() {
            let Some(certified) = problems.keep(certified(files_of_one, provider)) else { continue };
            let by_name_alone = index > 0 || files.unknown_name == UnknownName::Refused;
            let Some(names) = problems.keep(names(&files_of_one.certificate, &certified, by_name_alone)) else {
                continue;
            };
            for name in names {
                if named.insert(name.clone(), certified.clone()).is_some() {
                    problems.push(
                        Problem::at(&files_of_one.certificate, format!("two certificates are for `{name}`"))
                            .fix("leave one of them out"),
                    );
                }
            }
            first.get_or_insert(certified);
        }
        let other = first.filter(|_| files.unknown_name == UnknownName::First);
        problems.into_result(Some(Self { named, other }))
    }

    fn of(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.named.get(&format!("*.{}", name.split_once('.')?.1));
            self.named.get(&name).or_else(wildcard)
        });
        named.or(self.other.as_ref()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(hello.server_name())
    }
}

/// The certificates of a file.
///
/// # Errors
/// A [`Problem`] where there is none, or something else.
pub(super) fn chain(pem: &Spanned<String>) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.value.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            Err(Problem::at(pem, "the file holds no certificate in PEM").fix("it begins `-----BEGIN CERTIFICATE-----`"))
        }
        Err(error) => Err(Problem::at(pem, format!("the certificates cannot be read: {error}"))),
    }
}

fn certified(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Problem> {
    let chain = chain(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(files.private_key.value.expose().as_bytes())
        .map_err(|error| Problem::at(&files.private_key, format!("the private key cannot be read: {error}")))?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Problem::at(&files.private_key, "the key does not fit the certificate")
            .fix("give the key of that certificate"),
        other => Problem::at(&files.certificate, format!("certificate and key cannot be used: {other}")),
    })
}

/// The names of hosts that it is for, each once.
fn names(place: &Spanned<String>, certified: &CertifiedKey, by_name_alone: bool) -> Result<Vec<String>, Problem> {
    let unread = || Problem::at(place, "what the certificate is for cannot be read");
    let mut names =
        certified.cert.first().and_then(|certificate| x509::read(certificate)).ok_or_else(unread)?.dns_names;
    names.sort_unstable();
    names.dedup();
    if names.is_empty() && by_name_alone {
        return Err(Problem::at(place, "the certificate names no host, so it would be shown to nobody")
            .fix("give one with DNS names in its subjectAltName"));
    }
    Ok(names)
}
