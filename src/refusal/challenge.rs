//! What `WWW-Authenticate` tells a client that may try again otherwise (RFC 6750 section 3, RFC 9449 section 7.1, RFC 9470
//! section 3), and where it learns more (RFC 9728 section 5.1).

use crate::token::algorithm::NAMES;

/// `WWW-Authenticate` (RFC 6750 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A token is needed.
    Plain,
    /// The request is not one that can carry a token.
    InvalidRequest,
    /// The token will not do; which of its faults it was is not told.
    InvalidToken,
    /// The token lacks this scope.
    InsufficientScope(String),
    /// The user is to authenticate by one of these contexts (RFC 9470 section 3).
    StepUp(String),
    /// The DPoP proof will not do.
    InvalidProof,
    /// The DPoP proof needs the nonce that is told beside.
    ProofNonce,
}

const INVALID: &str = "error=\"invalid_token\", error_description=\"The access token is not valid for this service\"";

/// The authentication schemes that a challenge is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// `Bearer`.
    Bearer,
    /// `Bearer`, and `DPoP` too.
    Both,
    /// `DPoP`, by which the client came.
    Proof,
}

impl Challenge {
    /// The header's value, to a client that came, or may come, by schemes such as `offered`, and that learns more at
    /// `metadata`, if anywhere.
    pub fn to_header(&self, offered: Offered, metadata: Option<&str>) -> String {
        let bearer = |error: &str| scheme("Bearer", error, "", metadata);
        // What a proof may be signed with (RFC 9449 section 7.1).
        let proof = |error: &str| scheme("DPoP", error, &format!("algs=\"{}\"", NAMES.join(" ")), metadata);
        // An error is told by the scheme that the client came by.
        let as_it_came = |error: &str| match offered {
            Offered::Proof => proof(error),
            Offered::Bearer | Offered::Both => bearer(error),
        };
        match self {
            Self::Plain if offered == Offered::Both => format!("{}, {}", bearer(""), proof("")),
            Self::Plain => bearer(""),
            Self::InvalidProof => proof("error=\"invalid_dpop_proof\""),
            Self::ProofNonce => proof("error=\"use_dpop_nonce\""),
            Self::InvalidRequest => bearer("error=\"invalid_request\""),
            Self::InvalidToken => as_it_came(INVALID),
            Self::InsufficientScope(scope) => as_it_came(&format!("error=\"insufficient_scope\", scope=\"{scope}\"")),
            Self::StepUp(acr) => {
                as_it_came(&format!("error=\"insufficient_user_authentication\", acr_values=\"{acr}\""))
            }
        }
    }
}

/// A scheme with its parameters, as far as there are any.
fn scheme(name: &str, error: &str, algorithms: &str, metadata: Option<&str>) -> String {
    let metadata = metadata.map(|url| format!("resource_metadata=\"{url}\"")).unwrap_or_default();
    let parameters = [error, algorithms, &metadata].into_iter().filter(|it| !it.is_empty());
    let parameters = parameters.collect::<Vec<_>>().join(", ");
    format!("{name} {parameters}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_challenge_tells_where_to_learn_more() {
        let at = "https://api.example/.well-known/oauth-protected-resource";
        for challenge in [
            Challenge::Plain,
            Challenge::InvalidRequest,
            Challenge::InvalidToken,
            Challenge::InsufficientScope("a b".into()),
            Challenge::StepUp("acr".into()),
            Challenge::InvalidProof,
            Challenge::ProofNonce,
        ] {
            for offered in [Offered::Bearer, Offered::Both, Offered::Proof] {
                let (bare, told) = (challenge.to_header(offered, None), challenge.to_header(offered, Some(at)));
                let schemes = 1 + usize::from(bare.starts_with("Bearer, DPoP "));
                assert_eq!(told.matches(&format!("resource_metadata=\"{at}\"")).count(), schemes, "{told}");
                assert!(!bare.contains("resource_metadata") && !bare.ends_with(' '), "{bare}");
            }
        }
        let both = Challenge::Plain.to_header(Offered::Both, Some("u"));
        assert!(both.starts_with("Bearer resource_metadata=\"u\", DPoP algs=\"ES256 "), "{both}");
        assert!(both.ends_with("PS512\", resource_metadata=\"u\""), "{both}");
    }
}
