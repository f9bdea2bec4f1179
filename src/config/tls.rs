//! The section `tls`: how the gate speaks TLS to agents.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::base::{
    files::Files,
    problem::{Problem, Problems},
    secret::{Secret, SecretSource},
    spanned::Spanned,
};

/// The section `tls`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The gate's certificate and those that lead to an authority, in PEM.
    pub certificate: Spanned<PathBuf>,
    /// Its private key, in PEM.
    pub private_key: SecretSource,
    /// Further certificates, for clients that ask for their names. Default none.
    #[serde(default)]
    pub certificates: Vec<CertificateConfig>,
    /// What a client gets that asks for a name that no certificate has, or for none. Default the first certificate.
    pub unknown_name: Option<Spanned<UnknownName>>,
    /// Whether clients show a certificate. Default off.
    pub client_certificate: Option<Spanned<ClientCertificate>>,
    /// The authorities that clients' certificates are from, in PEM. Default: any, a self-signed one too.
    pub client_authorities: Option<Spanned<PathBuf>>,
}

/// An entry of `certificates`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// The certificate and those that lead to an authority, in PEM.
    pub certificate: Spanned<PathBuf>,
    /// Its private key, in PEM.
    pub private_key: SecretSource,
}

/// What a client gets that asks for a name that no certificate has, or for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownName {
    /// The first certificate.
    #[default]
    First,
    /// No connection.
    Refused,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificate {
    /// They are not asked for one.
    #[default]
    Off,
    /// They may.
    Accepted,
    /// Without one there is no connection.
    Required,
}

/// What the section's files hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The gate's certificates.
    pub certificates: Vec<CertificateFiles>,
    /// What a client gets that asks for none of them.
    pub unknown_name: UnknownName,
    /// Whether clients show a certificate.
    pub client_certificate: ClientCertificate,
    /// Certificates of authorities, in PEM.
    pub client_authorities: Option<Spanned<String>>,
}

/// What the files of a certificate hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificates, in PEM.
    pub certificate: Spanned<String>,
    /// A private key, in PEM.
    pub private_key: Spanned<Secret>,
}

impl TlsConfig {
    /// Reads the files.
    ///
    /// # Errors
    /// A [`Problem`] for each that is not there.
    pub fn read(&self, files: &Files) -> Result<TlsFiles, Problems> {
        let mut problems = Problems::default();
        let text = |path: &Spanned<PathBuf>| {
            let text = files.read(&path.value).map_err(|error| Problem::unreadable(path, &error))?;
            Ok::<_, Problem>(path.leads_to(text))
        };
        let client_certificate = self.client_certificate.as_ref().map_or(ClientCertificate::Off, |it| it.value);
        if let (ClientCertificate::Off, Some(authorities)) = (client_certificate, &self.client_authorities) {
            problems.push(
                Problem::at(authorities, "authorities of certificates that are not asked for")
                    .fix("add `client_certificate: accepted` or `required`"),
            );
        }
        let own = std::iter::once((&self.certificate, &self.private_key));
        let further = self.certificates.iter().map(|it| (&it.certificate, &it.private_key));
        let certificates = own.chain(further).filter_map(|(certificate, private_key)| {
            let certificate = problems.keep(text(certificate));
            let private_key = problems.keep(private_key.read_there(files));
            Some(CertificateFiles { certificate: certificate?, private_key: private_key? })
        });
        let certificates = certificates.collect();
        let client_authorities = problems.keep(self.client_authorities.as_ref().map(text).transpose());
        let whole = (|| {
            Some(TlsFiles {
                certificates,
                unknown_name: self.unknown_name.as_ref().map_or(UnknownName::First, |it| it.value),
                client_certificate,
                client_authorities: client_authorities?,
            })
        })();
        problems.into_result(whole)
    }
}
