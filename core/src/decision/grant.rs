//! The outcome of a decision that allows a token.

use std::time::Duration;

use writ_verifier::{Purpose, Scope};

use super::admit::AdmittedRequest;
use crate::client::ClientId;
use crate::policy::PurposeRule;
use crate::policy::mapping::TransactionContext;
use crate::request::Subject;
use crate::subject::{AnyTxnToken, OwnToken, SingleUse, TrialTxnToken};
use writ_platform::clock::Timestamp;

/// What policy allows, and so the content of the Txn-Token. Only [`decide`](super::decide) makes one, from a verified
/// subject, and each is used for one token. (`T` is [`OwnToken`], except in a [`TrialGrant`].)
///
/// It cannot be constructed:
///
/// ```compile_fail,E0451
/// use writ_core::decision::Grant;
/// fn forge(decided: Grant) -> Grant {
///     Grant { lifetime: std::time::Duration::MAX, ..decided }
/// }
/// ```
///
/// or copied:
///
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<writ_core::decision::Grant>();
/// ```
///
/// and [`decide`](super::decide) does not accept a subject that was not verified:
///
/// ```compile_fail,E0308
/// use writ_core::decision::{AdmittedRequest, Circumstances, Denial, Grant, Trace, decide};
/// use writ_core::subject::TrialSubject;
/// fn skip<'p>(
///     request: &AdmittedRequest<'p, '_>,
///     subject: TrialSubject,
///     at: Circumstances,
///     trace: &mut Trace<'p>,
/// ) -> Result<Grant, Denial> {
///     decide(request, subject, at, trace)
/// }
/// ```
#[derive(Debug)]
pub struct Grant<T = OwnToken> {
    client: ClientId,
    scope: Scope,
    lifetime: Duration,
    asks_pdp: Vec<Purpose>,
    carried: TransactionContext,
    kind: GrantKind<T>,
}

/// What policy would allow if the subject were verified. It cannot lead to a token:
///
/// ```compile_fail,E0308
/// use writ_core::claims::{ClaimsDraft, Settings};
/// use writ_core::decision::TrialGrant;
/// use writ_platform::clock::Timestamp;
/// fn draft(trial: TrialGrant, now: Timestamp, settings: &Settings) {
///     ClaimsDraft::new(trial, now, settings);
/// }
/// ```
///
/// nor be converted into a grant:
///
/// ```compile_fail,E0308
/// use writ_core::decision::{Grant, TrialGrant};
/// fn promote(trial: TrialGrant) -> Grant {
///     trial
/// }
/// ```
pub type TrialGrant = Grant<TrialTxnToken>;

/// What a grant is for. It proves nothing by itself: only a [`Grant`] leads to a token.
#[derive(Debug, Clone)]
pub enum GrantKind<T = OwnToken> {
    /// A new transaction.
    Issue {
        /// `sub` of the token.
        sub: Subject,
        /// The token must not outlive this instant.
        not_after: Option<Timestamp>,
        /// A `jti` that issuing the token uses up.
        single_use: Option<SingleUse>,
    },
    /// A new token for an existing transaction.
    Replace {
        /// The live token.
        original: Box<T>,
        /// The new token must not outlive this instant.
        not_after: Timestamp,
    },
    /// A use of the right to redeem an expired token.
    Redeem {
        /// The expired token.
        original: Box<T>,
        /// The limit on uses of its transaction for this purpose, by all clients together.
        max_uses: u32,
        /// Whether the original must be on record.
        require_record: bool,
    },
}

impl<T> Grant<T> {
    /// The token lives as long as its shortest-lived purpose allows.
    pub(super) fn new(
        admitted: &AdmittedRequest<'_, '_>,
        rules: &[&PurposeRule],
        carried: TransactionContext,
        kind: GrantKind<T>,
    ) -> Self {
        Self {
            client: admitted.client().client_id.clone(),
            scope: admitted.request().scope.clone(),
            lifetime: rules.iter().map(|rule| rule.lifetime).min().unwrap_or_default(),
            asks_pdp: rules.iter().filter(|rule| rule.pdp).map(|rule| rule.purpose.clone()).collect(),
            carried,
            kind,
        }
    }
}

impl<T: AnyTxnToken> Grant<T> {
    /// The client that the token is issued to.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// The purposes, in the order of the request.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The purposes about which the external decision point must still be asked.
    pub fn asks_pdp(&self) -> &[Purpose] {
        &self.asks_pdp
    }

    /// `sub` of the token.
    pub(crate) fn sub(&self) -> &str {
        match &self.kind {
            GrantKind::Issue { sub, .. } => sub.as_str(),
            GrantKind::Replace { original, .. } | GrantKind::Redeem { original, .. } => &original.claims().sub,
        }
    }

    /// The Txn-Token that was presented; `None` for a new transaction.
    pub fn original(&self) -> Option<&T> {
        match &self.kind {
            GrantKind::Issue { .. } => None,
            GrantKind::Replace { original, .. } | GrantKind::Redeem { original, .. } => Some(original),
        }
    }

    /// Issue, replace or redeem.
    pub fn kind(&self) -> &GrantKind<T> {
        &self.kind
    }

    /// `tctx` and `rctx` of the token, without the mark of a redemption.
    pub(crate) fn carried(&self) -> &TransactionContext {
        &self.carried
    }

    /// The `exp` of a token issued at `now`.
    pub fn expiry(&self, now: Timestamp) -> Timestamp {
        let expiry = now + self.lifetime;
        match self.kind {
            GrantKind::Issue { not_after: Some(limit), .. } | GrantKind::Replace { not_after: limit, .. } => {
                expiry.min(limit)
            }
            GrantKind::Issue { not_after: None, .. } | GrantKind::Redeem { .. } => expiry,
        }
    }
}

#[cfg(test)]
impl Grant {
    /// A right to redeem that no policy granted, for tests; its tokens live for a minute.
    pub(crate) fn redeeming(client: &str, original: OwnToken, max_uses: u32, require_record: bool) -> Self {
        let carried = TransactionContext { tctx: original.claims().tctx.clone(), rctx: original.claims().rctx.clone() };
        let scope = original.claims().scope.clone();
        let kind = GrantKind::Redeem { original: Box::new(original), max_uses, require_record };
        Self {
            client: client.parse().unwrap(),
            scope,
            lifetime: Duration::from_secs(60),
            asks_pdp: Vec::new(),
            carried,
            kind,
        }
    }

    /// The same grant, with these purposes still to be asked about.
    pub(crate) fn asking_pdp(self, purposes: &[&str]) -> Self {
        Self { asks_pdp: purposes.iter().map(|purpose| purpose.parse().unwrap()).collect(), ..self }
    }

    /// A new transaction that no policy granted.
    pub(crate) fn issuing(client: &str, sub: &str, scope: &str, not_after: Option<Timestamp>) -> Self {
        let kind = GrantKind::Issue { sub: sub.parse().unwrap(), not_after, single_use: None };
        let (lifetime, carried) = (Duration::from_secs(60), TransactionContext::default());
        Self {
            client: client.parse().unwrap(),
            scope: scope.parse().unwrap(),
            lifetime,
            asks_pdp: Vec::new(),
            carried,
            kind,
        }
    }
}
