//! The error table: each `reason` with its OAuth error and HTTP status, written once.
//!
//! `docs/openapi.json`, the reference of the HTTP API and the tests are compared with [`Reason::ALL`].

/// `error` of a refusal (RFC 6749 §5.2, RFC 8693 §2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OAuthError {
    /// The request is malformed, or its subject token is not acceptable.
    InvalidRequest,
    /// The client is not authenticated.
    InvalidClient,
    /// The client is authenticated but not authorised.
    UnauthorizedClient,
    /// Neither token exchange nor client credentials.
    UnsupportedGrantType,
    /// The purposes, or the details and context for them, are not allowed.
    InvalidScope,
    /// `audience` or `resource` is not supported.
    InvalidTarget,
    /// A permanent fault of the service.
    ServerError,
    /// A temporary fault or limit: the answer has `Retry-After`.
    TemporarilyUnavailable,
}

impl OAuthError {
    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::ServerError => "server_error",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }
}

/// Generates the enum and its columns from one table, so that no row can lack a column or be missing from `ALL`.
macro_rules! error_table {
    ($($reason:ident $name:literal $status:literal $error:ident $by:ident)*) => {
        /// Why a request was refused: the stable code for programs, in answers, the audit log and metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = concat!("`", $name, "`")] $reason,)*
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$reason),*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$reason => $name),* }
            }

            /// The OAuth `error` for this reason.
            pub const fn error(self) -> OAuthError {
                match self { $(Self::$reason => OAuthError::$error),* }
            }

            /// The HTTP status for this reason.
            pub const fn status(self) -> u16 {
                match self { $(Self::$reason => $status),* }
            }

            const fn given_by(self) -> By {
                match self { $(Self::$reason => By::$by),* }
            }
        }
    };
}

/// The part of the service that refuses for this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Only the listener, before a flow begins.
    Listener,
    /// A flow, and some of them the listener too.
    Flow,
}

error_table! {
    ParameterMissing              "parameter_missing"               400 InvalidRequest Flow
    ParameterRepeated             "parameter_repeated"              400 InvalidRequest Flow
    ParameterMalformed            "parameter_malformed"             400 InvalidRequest Flow
    ParameterUnsupported          "parameter_unsupported"           400 InvalidRequest Flow
    SubjectTokenMalformed         "subject_token_malformed"         400 InvalidRequest Flow
    SubjectTokenTypeUnsupported   "subject_token_type_unsupported"  400 InvalidRequest Flow
    SubjectTokenIssuerUnknown     "subject_token_issuer_unknown"    400 InvalidRequest Flow
    SubjectTokenKeyUnknown        "subject_token_key_unknown"       400 InvalidRequest Flow
    SubjectTokenSignatureInvalid  "subject_token_signature_invalid" 400 InvalidRequest Flow
    SubjectTokenAudienceMismatch  "subject_token_audience_mismatch" 400 InvalidRequest Flow
    SubjectTokenExpired           "subject_token_expired"           400 InvalidRequest Flow
    SubjectTokenNotYetValid       "subject_token_not_yet_valid"     400 InvalidRequest Flow
    SubjectTokenInactive          "subject_token_inactive"          400 InvalidRequest Flow
    SubjectTokenClaimsInvalid     "subject_token_claims_invalid"    400 InvalidRequest Flow
    SubjectTokenReplayed          "subject_token_replayed"          400 InvalidRequest Flow
    RedemptionTooEarly            "redemption_too_early"            400 InvalidRequest Flow
    RedemptionTooOld              "redemption_too_old"              400 InvalidRequest Flow
    RedemptionExhausted           "redemption_exhausted"            400 InvalidRequest Flow
    RedemptionKeyGone             "redemption_key_gone"             400 InvalidRequest Flow
    RedemptionNotOnRecord         "redemption_not_on_record"        400 InvalidRequest Flow
    ReplacementLimit              "replacement_limit"               400 InvalidRequest Flow
    TokenTooLarge                 "token_too_large"                 400 InvalidRequest Flow
    Blocked                       "blocked"                         400 InvalidRequest Flow
    GrantTypeUnsupported          "grant_type_unsupported"          400 UnsupportedGrantType Flow
    SourceNotAllowed              "source_not_allowed"              400 UnauthorizedClient Flow
    SubjectNotAllowed             "subject_not_allowed"             400 UnauthorizedClient Flow
    RedemptionNotAllowed          "redemption_not_allowed"          400 UnauthorizedClient Flow
    PdpDenied                     "pdp_denied"                      400 UnauthorizedClient Flow
    IntrospectionNotAllowed       "introspection_not_allowed"       403 UnauthorizedClient Flow
    ScopeMalformed                "scope_malformed"                 400 InvalidScope Flow
    PurposeNotAllowed             "purpose_not_allowed"             400 InvalidScope Flow
    ScopeExceedsSubjectToken      "scope_exceeds_subject_token"     400 InvalidScope Flow
    ScopeUnknown                  "scope_unknown"                   400 InvalidScope Flow
    DetailsRejected               "details_rejected"                400 InvalidScope Flow
    ConditionFailed               "condition_failed"                400 InvalidScope Flow
    AudienceUnknown               "audience_unknown"                400 InvalidTarget Flow
    ResourceUnsupported           "resource_unsupported"            400 InvalidTarget Flow
    ClientUnknown                 "client_unknown"                  401 InvalidClient Flow
    ClientAmbiguous               "client_ambiguous"                401 InvalidClient Flow
    ClientIdMismatch              "client_id_mismatch"              401 InvalidClient Flow
    NotFound                      "not_found"                       404 InvalidRequest Listener
    MethodNotAllowed              "method_not_allowed"              405 InvalidRequest Listener
    RequestTimeout                "request_timeout"                 408 InvalidRequest Flow
    BodyTooLarge                  "body_too_large"                  413 InvalidRequest Listener
    MediaTypeUnsupported          "media_type_unsupported"          415 InvalidRequest Listener
    RateLimited                   "rate_limited"                    429 TemporarilyUnavailable Flow
    Internal                      "internal"                        500 ServerError Flow
    StoreUnavailable              "store_unavailable"               503 TemporarilyUnavailable Flow
    IssuerUnavailable             "issuer_unavailable"              503 TemporarilyUnavailable Flow
    PdpUnavailable                "pdp_unavailable"                 503 TemporarilyUnavailable Flow
    ClockBehind                   "clock_behind"                    503 TemporarilyUnavailable Flow
    AuditUnavailable              "audit_unavailable"               503 TemporarilyUnavailable Flow
    Overloaded                    "overloaded"                      503 TemporarilyUnavailable Listener
    ShuttingDown                  "shutting_down"                   503 TemporarilyUnavailable Listener
}

impl Reason {
    /// Whether only the listener uses it, before a flow begins.
    pub const fn is_listeners_own(self) -> bool {
        matches!(self.given_by(), By::Listener)
    }

    /// The reason with this code.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}
