//! The names of warnings. They are stable: configurations and command lines use them.

/// What is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lint {
    /// A policy reads what no route supplies.
    UnsuppliedRead,
    /// An action of the schema has no route.
    UnroutedAction,
    /// No permit can ever allow a route.
    UnpermittedRoute,
    /// A permit can never apply.
    InertPermit,
    /// A forbid can never apply.
    InertForbid,
    /// Evaluating a forbid can err.
    FallibleForbid,
    /// A scope that no token can hold.
    UngrantedScope,
    /// A scope that is looked for elsewhere than in the token.
    ScopeNotOfToken,
    /// The schema makes the scopes one text.
    ScopeIsText,
    /// A blank at an end of an id or text.
    BlankInId,
    /// An entity written as text.
    EntityAsText,
    /// An id of an agent or user without the prefix that ids carry.
    IdWithoutPrefix,
    /// A user's id compared as text, where users are of several issuers.
    UserIdAsText,
    /// Two routes make one operation of the service two actions.
    TwoActionsOneOperation,
    /// A template is linked to nothing.
    UnlinkedTemplate,
    /// A policy that Cedar knows to be always false.
    ImpossiblePolicy,
    /// Something else that Cedar finds odd.
    Cedar,
    /// Something is allowed that is not there.
    UnusedAllow,
}

impl Lint {
    /// Each of them.
    pub const ALL: [Self; 18] = [
        Self::UnsuppliedRead,
        Self::UnroutedAction,
        Self::UnpermittedRoute,
        Self::InertPermit,
        Self::InertForbid,
        Self::FallibleForbid,
        Self::UngrantedScope,
        Self::ScopeNotOfToken,
        Self::ScopeIsText,
        Self::BlankInId,
        Self::EntityAsText,
        Self::IdWithoutPrefix,
        Self::UserIdAsText,
        Self::TwoActionsOneOperation,
        Self::UnlinkedTemplate,
        Self::ImpossiblePolicy,
        Self::Cedar,
        Self::UnusedAllow,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnsuppliedRead => "unsupplied_read",
            Self::UnroutedAction => "unrouted_action",
            Self::UnpermittedRoute => "unpermitted_route",
            Self::InertPermit => "inert_permit",
            Self::InertForbid => "inert_forbid",
            Self::FallibleForbid => "fallible_forbid",
            Self::UngrantedScope => "ungranted_scope",
            Self::ScopeNotOfToken => "scope_not_of_token",
            Self::ScopeIsText => "scope_is_text",
            Self::BlankInId => "blank_in_id",
            Self::EntityAsText => "entity_as_text",
            Self::IdWithoutPrefix => "id_without_prefix",
            Self::UserIdAsText => "user_id_as_text",
            Self::TwoActionsOneOperation => "two_actions_one_operation",
            Self::UnlinkedTemplate => "unlinked_template",
            Self::ImpossiblePolicy => "impossible_policy",
            Self::Cedar => "cedar",
            Self::UnusedAllow => "unused_allow",
        }
    }
}

/// The one of this name.
pub(super) fn known(name: &str) -> Option<Lint> {
    Lint::ALL.into_iter().find(|lint| lint.name() == name)
}

/// The names of all.
pub(super) fn every() -> String {
    Lint::ALL.map(Lint::name).join(", ")
}
