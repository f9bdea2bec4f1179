//! One refusal of each kind.

use super::*;

impl Refusal {
    /// One of each kind, for documentation and tests.
    pub fn every() -> Vec<Self> {
        use {
            ClientError as C, MappingError as M, PreflightError as P, RequestError as R, TokenError as T,
            UpstreamError as U,
        };
        let requests = [
            R::AmbiguousPath,
            R::ForwardedInvalid,
            R::HeaderRepeated,
            R::FramingConflict,
            R::UpgradeUnclear,
            R::HostMissing,
            R::HostInvalid,
            R::MethodRefused,
            R::TargetTooLong,
            R::ProxyUntrusted,
            R::ProxyHeaderInvalid,
            R::HeadTimedOut,
            R::HeadTooLarge,
        ];
        let tokens = [
            T::Missing,
            T::Several,
            T::Malformed,
            T::HeaderRefused,
            T::AlgorithmRefused,
            T::IssuerUnknown,
            T::KeyUnknown,
            T::KeysUnavailable,
            T::SignatureInvalid,
            T::TypeWrong,
            T::Expired,
            T::Early,
            T::BindingUnchecked,
            T::BindingMissing,
            T::CertificateMismatch,
            T::ProofMissing,
            T::ProofInvalid,
            T::ProofNonceMissing(Nonce::NONE),
            T::ProofReplayed,
            T::ProofsUnchecked,
            T::LifetimeExceeded,
            T::DelegationStale,
            T::DelegationConflict,
            T::UseWrong,
            T::AudienceWrong,
            T::Inactive,
            T::IntrospectionUnavailable,
            T::Revoked,
            T::ClientRefused,
        ];
        let named = String::new;
        let mappings = [
            M::ScopeMissing(named()),
            M::DelegationMissing,
            M::DelegationForbidden,
            M::DelegationUnclear,
            M::ClientUnlisted,
            M::AppRefused,
            M::EntitiesTooMany,
            M::ConsentMissing(None),
            M::SourceUnavailable(named()),
            M::SourceTimedOut(named()),
            M::ClaimMissing(named()),
        ];
        let denials = [DenyReason::Policy, DenyReason::Failure].map(|reason| Denied {
            reason,
            side: None,
            determining: Vec::new(),
            nearest_miss: None,
        });
        let mut every = vec![
            Self::RouteMissing,
            Self::HostUnknown,
            Self::Overloaded,
            Self::PeerOverloaded,
            Self::Unrecorded,
            Self::Internal,
        ];
        every.extend(requests.map(Self::from));
        every.extend([P::Method, P::Origin, P::Headers].map(Self::from));
        every.extend(tokens.map(Self::from));
        every.extend(mappings.map(Self::from));
        every.extend(denials.map(Self::from));
        every.extend([U::Unreachable, U::Unavailable, U::Busy, U::TimedOut, U::Invalid].map(Self::from));
        let (limit, after) = (|| "limit".into(), Duration::from_secs(1));
        let limits = [
            LimitError::PeerLimited(limit(), after),
            LimitError::ClientLimited(limit(), after),
            LimitError::Unavailable(limit()),
        ];
        every.extend(limits.map(Self::Limited));
        every.extend([C::BodyTimedOut, C::BodyTooLarge, C::RequestInvalid, C::TunnelIdle, C::Gone].map(Self::from));
        every
    }
}
