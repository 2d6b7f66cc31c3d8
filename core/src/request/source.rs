//! The kinds of subject token.

/// The kind of proof in a request, as policies name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An access token of a configured subject issuer.
    AccessToken,
    /// Any other JWT of a configured subject issuer.
    Jwt,
    /// An ID token of a configured subject issuer.
    IdToken,
    /// A JWT signed by the client.
    SelfSigned,
    /// A JSON object, trusted because the client is trusted.
    UnsignedJson,
    /// A live Txn-Token: replacement.
    TxnToken,
    /// An expired Txn-Token: redemption.
    ExpiredTxnToken,
    /// The client's own identity.
    ClientCredentials,
}

impl Source {
    /// In the order of the table in the reference.
    pub const ALL: [Self; 8] = [
        Self::AccessToken,
        Self::Jwt,
        Self::IdToken,
        Self::SelfSigned,
        Self::UnsignedJson,
        Self::TxnToken,
        Self::ExpiredTxnToken,
        Self::ClientCredentials,
    ];

    /// The name in policies, metrics and the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::Jwt => "jwt",
            Self::IdToken => "id_token",
            Self::SelfSigned => "self_signed",
            Self::UnsignedJson => "unsigned_json",
            Self::TxnToken => "txn_token",
            Self::ExpiredTxnToken => "expired_txn_token",
            Self::ClientCredentials => "client_credentials",
        }
    }

    /// The source with this name, compared exactly.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }

    /// Whether the proof comes from a subject issuer, so that `granted_by` must map its scopes.
    pub const fn is_outside(self) -> bool {
        matches!(self, Self::AccessToken | Self::Jwt | Self::IdToken)
    }

    /// Whether the proof has claims of an issuer or of the client, other than those of a Txn-Token.
    pub const fn brings_claims(self) -> bool {
        matches!(self, Self::AccessToken | Self::Jwt | Self::IdToken | Self::SelfSigned | Self::UnsignedJson)
    }

    /// Whether the client alone vouches for the subject, without a token of another party.
    pub const fn is_self_asserted(self) -> bool {
        matches!(self, Self::ClientCredentials | Self::UnsignedJson | Self::SelfSigned)
    }
}
