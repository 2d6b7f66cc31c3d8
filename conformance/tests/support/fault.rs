//! The one respect in which the service departs from the draft.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A conforming service.
    None,

    /// The metadata names another issuer.
    ForeignIssuer,
    /// `token_endpoint` is not an https URL; its alias for mTLS is.
    PlainEndpoint,
    /// `jwks_uri` is not an https URL.
    PlainKeys,
    /// The metadata does not list token exchange.
    NoExchange,
    /// The metadata lists `none` for JWTs that authenticate clients.
    UnsignedAssertions,
    /// `response_types_supported` is a string.
    TextAsResponseTypes,
    /// `mtls_endpoint_aliases` is a list.
    ListAsAliases,
    /// `jwks_uri` is not found.
    NoKeys,
    /// No published key can be used.
    UnusableKeys,
    /// A symmetric key is published.
    PublishesSecret,
    /// Two published keys have the same `kid`.
    OneNameForTwoKeys,

    /// `Content-Type` of a token response.
    AnswersText,
    /// `Cache-Control` of a token response.
    CachedAnswers,
    /// `issued_token_type`.
    SaysJwt,
    /// `token_type`.
    SaysBearer,
    AddsRefreshToken,
    /// `refresh_token` is null.
    NullAsRefreshToken,
    /// `expires_in` is more than the lifetime of the token.
    LateExpiresIn,
    /// `scope` of the response is not that of the token.
    SaysOtherScope,

    /// `typ`.
    WrongTyp,
    /// `alg`.
    Symmetric,
    /// The draft only recommends a `kid`.
    NoKid,
    UnknownKid,
    /// The signature is by a key that is not published.
    WrongSignature,
    Milliseconds,
    LivesForHours,
    /// `aud`.
    AudienceArray,
    /// `iss`.
    OtherIss,
    ReusesTxn,
    EmptyTxn,
    EmptySubject,
    NoRequester,
    GrantsMore,
    TextAsContext,
    CopiesSubjectToken,
    /// A claim occurs twice.
    RepeatsClaim,
    /// `nbf` lies in the future.
    NotBefore,

    IgnoresAudience,
    /// Another code than RFC 8693 recommends for an unknown audience.
    OtherTargetCode,
    TakesTwoAudiences,
    /// Assumes this parameter if it is absent.
    TakesWithout(&'static str),
    /// Assumes this parameter if it is empty.
    TakesEmpty(&'static str),
    /// Uses the first value of this parameter.
    TakesRepeated(&'static str),
    /// Issues a Txn-Token for any requested type except those of OAuth.
    TakesUnknownRequestedType,
    /// Issues access tokens as well, as an authorization server may.
    IssuesAccessTokens,
    TakesUnknownGrant,
    /// Checks the first purpose only.
    TakesWiderScope,
    /// Grants a purpose that ends like this.
    TakesPurpose(&'static str),
    /// Accepts this type of token as an access token.
    TakesType(&'static str),
    TakesUnsigned,
    TakesBrokenSignatures,
    /// A code that RFC 8693 does not define for subject tokens.
    InvalidGrant,
    /// Accepts this parameter with this value: `request_details` or `request_context`.
    TakesContext(&'static str, &'static str),
    IgnoresActor,
    RefusesUnknownParameters,
    /// Reads parameters from the query string of a GET.
    TakesGet,
    TakesJson,
    ReadsQuery,
    TakesAnyCaller,

    TextAsRefusal,
    ForbiddenAsRefusal,
    CachedRefusals,
    QuotesInDescription,
    EchoesSubjectToken,

    TakesTxnTokenAsAccessToken,
    NewTxnOnReplacement,
    /// A replacement has an additional purpose.
    GrowsOnReplacement,
    WidensReplacement,
    /// Does not verify the signature of its own tokens.
    TakesForgedTxnToken,
    TakesExpired,
}
