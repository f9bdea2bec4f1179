//! The certificate that a client opened its connection with.

use serde::Deserialize;

/// A certificate whose key the client has shown to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of it, in DER.
    pub thumbprint: [u8; 32],
    /// What it says. INVARIANT: only where an authority vouches for that which the operator has named for clients.
    pub vouched: Option<Said>,
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Said {
    /// Its subject, as RFC 4514 writes it.
    pub subject: String,
    /// DNS names of its subjectAltName, in lower case.
    pub dns_names: Vec<String>,
    /// URIs of its subjectAltName.
    pub uris: Vec<String>,
}
