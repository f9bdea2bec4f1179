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
    /// Whether clients show a certificate. Default off.
    pub client_certificate: Option<Spanned<ClientCertificate>>,
    /// The authorities that clients' certificates are from, in PEM. Default: any, a self-signed one too.
    pub client_authorities: Option<Spanned<PathBuf>>,
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
    /// Certificates, in PEM.
    pub certificate: String,
    /// A private key, in PEM.
    pub private_key: Secret,
    /// Whether clients show a certificate.
    pub client_certificate: ClientCertificate,
    /// Certificates of authorities, in PEM.
    pub client_authorities: Option<String>,
}

impl TlsConfig {
    /// Reads the files.
    ///
    /// # Errors
    /// A [`Problem`] for each that is not there.
    pub fn read(&self, files: &Files) -> Result<TlsFiles, Problems> {
        let mut problems = Problems::default();
        let text = |path: &Spanned<PathBuf>| files.read(&path.value).map_err(|error| Problem::unreadable(path, &error));
        let client_certificate = self.client_certificate.as_ref().map_or(ClientCertificate::Off, |it| it.value);
        if let (ClientCertificate::Off, Some(authorities)) = (client_certificate, &self.client_authorities) {
            problems.push(
                Problem::at(authorities, "authorities of certificates that are not asked for")
                    .fix("add `client_certificate: accepted` or `required`"),
            );
        }
        let certificate = problems.keep(text(&self.certificate));
        let private_key = problems.keep(self.private_key.read(files));
        let client_authorities = problems.keep(self.client_authorities.as_ref().map(text).transpose());
        let whole = (|| {
            Some(TlsFiles {
                certificate: certificate?,
                private_key: private_key?,
                client_certificate,
                client_authorities: client_authorities?,
            })
        })();
        problems.into_result(whole)
    }
}
