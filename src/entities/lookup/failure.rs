//! Why a question failed, and whether it would have for any key.

use super::LookupError;
use crate::base::fetch::FetchError;

/// Why a question failed.
pub(super) struct Failure {
    pub(super) error: LookupError,
    pub(super) why: String,
    /// Whether it would have failed for any key.
    pub(super) of_source: bool,
}

impl Failure {
    pub(super) fn of_source(why: impl Into<String>) -> Self {
        Self { error: LookupError::Unavailable, why: why.into(), of_source: true }
    }

    pub(super) fn of_key(why: impl Into<String>) -> Self {
        Self { of_source: false, ..Self::of_source(why) }
    }
}

/// Whether the server would not have answered about any other key either.
pub(super) const fn is_of_source(error: &FetchError) -> bool {
    match error {
        FetchError::Unreachable(_) | FetchError::TimedOut(_) => true,
        FetchError::Status(status) => matches!(status, 401 | 403 | 429 | 500..),
        FetchError::Redirect | FetchError::TooLarge(_) | FetchError::NotJson => false,
    }
}
