//! Grant → permit: the external decision point (PDP) and the kill switch also allow what policy granted.
//!
//! In: a [`Grant`]. Out: a [`Permit`], which [`Ledger::spend`](crate::ledger::Ledger::spend) and
//! [`ClaimsDraft::new`](crate::claims::ClaimsDraft::new) require, so that a flow that forgets one of the two checks
//! does not compile.

use std::time::Instant;

use crate::blocks::{BlockTarget, Blocked, Blocks};
use crate::decision::Grant;
use crate::pdp::{Fault, Pdp, PdpError, Proof, Question};
use crate::request::TokenRequest;
use writ_platform::clock::Timestamp;

/// The facts about a request that the PDP needs besides the grant.
pub(crate) struct Inquiry<'a> {
    pub(crate) request: &'a TokenRequest,
    pub(crate) proof: Proof<'a>,
    pub(crate) request_id: &'a str,
    pub(crate) deadline: Instant,
}

/// A grant that the PDP has approved, or whose purposes do not require its approval.
#[derive(Debug)]
pub(crate) struct ApprovedGrant {
    grant: Grant,
    pdp_asked: bool,
}

impl ApprovedGrant {
    /// Asks `pdp` about each purpose of `grant` whose rule has `pdp = true`.
    ///
    /// # Errors
    /// [`PdpError::Denied`]; [`PdpError::Unavailable`] also if a rule needs a PDP and none is configured.
    pub(crate) async fn obtain(grant: Grant, pdp: Option<&Pdp>, inquiry: Inquiry<'_>) -> Result<Self, PdpError> {
        let Inquiry { request, proof, request_id, deadline } = inquiry;
        let Some(question) = Question::about(&grant, request, proof, request_id) else {
            return Ok(Self { grant, pdp_asked: false });
        };
        let pdp = pdp.ok_or(PdpError::Unavailable(Fault::NotConfigured))?;
        Box::pin(pdp.ask(&question, deadline)).await?;
        Ok(Self { grant, pdp_asked: true })
    }

    pub(crate) fn pdp_asked(&self) -> bool {
        self.pdp_asked
    }
}

/// A grant that passed policy, PDP and kill switch. Only the ledger can still refuse the token.
///
/// It cannot be constructed outside of this module:
///
/// ```compile_fail,E0451
/// # fn forge(grant: writ_core::decision::Grant) {
/// let permit = writ_core::permit::Permit { grant };
/// # }
/// ```
///
/// A grant alone cannot spend a use:
///
/// ```compile_fail,E0308
/// # use writ_core::{decision::Grant, ledger::Ledger};
/// # use writ_platform::clock::Timestamp;
/// # async fn spend(ledger: &Ledger, grant: Grant, now: Timestamp) {
/// ledger.spend(&grant, now).await;
/// # }
/// ```
///
/// A token requires a permit, not a grant:
///
/// ```compile_fail,E0308
/// # use writ_core::{claims::{ClaimsDraft, Settings}, decision::Grant};
/// # use writ_platform::clock::Timestamp;
/// # fn claims(grant: Grant, now: Timestamp, settings: &Settings) {
/// ClaimsDraft::new(grant, now, settings);
/// # }
/// ```
///
/// This is the only way:
///
/// ```
/// # use writ_core::{claims::{Claims, ClaimsDraft, Settings}, ledger::Ledger, permit::Permit};
/// # use writ_platform::clock::Timestamp;
/// # async fn claims(ledger: &Ledger, permit: Permit, now: Timestamp, settings: &Settings) -> Claims {
/// let draft = ClaimsDraft::new(permit, now, settings).unwrap();
/// let term = ledger.spend(draft.permit(), now).await.unwrap();
/// draft.complete(term).unwrap()
/// # }
/// ```
#[derive(Debug)]
pub struct Permit {
    grant: Grant,
}

impl Permit {
    /// Checks the kill switch at `now`, the accepted time ([`Instants::believed`](writ_platform::clock::Instants)).
    ///
    /// # Errors
    /// [`Blocked`] if an entry matches the transaction, its subject, one of its clients or one of its purposes.
    pub(crate) fn new(approved: ApprovedGrant, blocks: &Blocks, now: Timestamp) -> Result<Self, Blocked> {
        let ApprovedGrant { grant, .. } = approved;
        blocks.check(&BlockTarget::of_grant(&grant), now)?;
        Ok(Self { grant })
    }

    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }
}

/// A permit without any check, for tests.
#[cfg(test)]
impl From<Grant> for Permit {
    fn from(grant: Grant) -> Self {
        Self { grant }
    }
}
