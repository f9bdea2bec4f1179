//! What `WWW-Authenticate` tells a client that may try again otherwise (RFC 6750 section 3, RFC 9449 section 7.1, RFC 9470
//! section 3).

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

/// What a proof may be signed with (RFC 9449 section 7.1).
const PROOF_ALGORITHMS: &str = "algs=\"ES256 ES384 EdDSA RS256 RS384 RS512 PS256 PS384 PS512\"";

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

/// An error told by the scheme that the client came by.
fn error_as(offered: Offered, error: &str) -> String {
    match offered {
        Offered::Proof => format!("DPoP {error}, {PROOF_ALGORITHMS}"),
        Offered::Bearer | Offered::Both => format!("Bearer {error}"),
    }
}

impl Challenge {
    /// The header's value, to a client that came, or may come, by schemes such as `offered`.
    pub fn to_header(&self, offered: Offered) -> String {
        match self {
            Self::Plain if offered == Offered::Both => format!("Bearer, DPoP {PROOF_ALGORITHMS}"),
            Self::Plain => "Bearer".into(),
            Self::InvalidProof => format!("DPoP error=\"invalid_dpop_proof\", {PROOF_ALGORITHMS}"),
            Self::ProofNonce => format!("DPoP error=\"use_dpop_nonce\", {PROOF_ALGORITHMS}"),
            Self::InvalidRequest => "Bearer error=\"invalid_request\"".into(),
            Self::InvalidToken => error_as(offered, INVALID),
            Self::InsufficientScope(scope) => {
                error_as(offered, &format!("error=\"insufficient_scope\", scope=\"{scope}\""))
            }
            Self::StepUp(acr) => {
                error_as(offered, &format!("error=\"insufficient_user_authentication\", acr_values=\"{acr}\""))
            }
        }
    }
}
