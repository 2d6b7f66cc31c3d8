//! (client, request) → a request whose purposes are all in the client's policy and accept its source.

use writ_verifier::Purpose;

use super::denial::Denial;
use super::trace::{Admission, Trace};
use crate::policy::{ClientPolicy, PurposeRule, Redemption};
use crate::request::{Source, TokenRequest};

/// A request whose purposes are all in the client's policy and accept its source. Only [`admit`] makes one.
#[derive(Debug)]
pub struct AdmittedRequest<'p, 'r> {
    client: &'p ClientPolicy,
    request: &'r TokenRequest,
    accepted: Accepted<'p>,
}

/// The rules that apply to a request, one for each purpose.
#[derive(Debug)]
pub(super) enum Accepted<'p> {
    /// A Txn-Token, which verification may find alive or expired.
    TxnToken {
        /// `None` if a requested purpose does not accept live tokens.
        replacement: Option<Vec<&'p PurposeRule>>,
        /// `None` if no requested purpose can be redeemed.
        redemption: Option<(&'p PurposeRule, &'p Redemption)>,
    },
    /// Any other presentation has one source, which these rules accept.
    Other { rules: Vec<&'p PurposeRule> },
}

impl<'p, 'r> AdmittedRequest<'p, 'r> {
    /// The client's policy.
    pub fn client(&self) -> &'p ClientPolicy {
        self.client
    }

    /// The request as it was parsed.
    pub fn request(&self) -> &'r TokenRequest {
        self.request
    }

    /// Whether this client may redeem an expired token for one of the requested purposes.
    pub fn may_redeem(&self) -> bool {
        matches!(self.accepted, Accepted::TxnToken { redemption: Some(_), .. })
    }

    /// Whether a subject verified for this request can have this source.
    pub(super) fn accepts(&self, source: Source) -> bool {
        self.request.presented.sources().contains(&source)
    }

    pub(super) fn accepted(&self) -> &Accepted<'p> {
        &self.accepted
    }
}

/// Refuses what can be refused without the subject token: each purpose must be in the policy, then accept the source.
///
/// # Errors
/// [`Denial::PurposeNotAllowed`], [`Denial::SourceNotAllowed`].
pub fn admit<'p, 'r>(
    client: &'p ClientPolicy,
    request: &'r TokenRequest,
    trace: &mut Trace<'p>,
) -> Result<AdmittedRequest<'p, 'r>, Denial> {
    let purposes = request.scope.purposes();
    let listed = purposes.iter().map(|purpose| find_purpose(client, purpose, trace)).collect::<Result<Vec<_>, _>>()?;
    let sources = request.presented.sources();
    let rules = listed.into_iter().map(|first| find_source(client, first, sources, trace)).collect::<Result<_, _>>()?;
    let accepted = match sources {
        [_] => Accepted::Other { rules },
        _ => own_token_rules(client, purposes),
    };
    Ok(AdmittedRequest { client, request, accepted })
}

/// The first rule of a purpose.
fn find_purpose<'p>(
    client: &'p ClientPolicy,
    purpose: &Purpose,
    trace: &mut Trace<'p>,
) -> Result<&'p PurposeRule, Denial> {
    let Some(rule) = client.rules(purpose).next() else {
        return Err(trace.refuse(Admission::PurposeNotListed(purpose.clone()), Denial::PurposeNotAllowed));
    };
    trace.pass(Admission::PurposeListed(rule));
    Ok(rule)
}

/// The first rule that accepts one of `sources`, among those for the purpose of `first`.
fn find_source<'p>(
    client: &'p ClientPolicy,
    first: &'p PurposeRule,
    sources: &'static [Source],
    trace: &mut Trace<'p>,
) -> Result<&'p PurposeRule, Denial> {
    let accepts = |rule: &&PurposeRule| sources.iter().any(|source| rule.accept.contains(source));
    let Some(rule) = client.rules(&first.purpose).find(accepts) else {
        let fact = Admission::SourceNotAccepted { policy: client, rule: first, sources };
        return Err(trace.refuse(fact, Denial::SourceNotAllowed));
    };
    trace.pass(Admission::SourceAccepted { rule, sources });
    Ok(rule)
}

fn own_token_rules<'p>(client: &'p ClientPolicy, purposes: &[Purpose]) -> Accepted<'p> {
    let live = |purpose| client.rules(purpose).find(|rule| rule.accept.contains(&Source::TxnToken));
    let expired =
        |purpose| client.rules(purpose).find_map(|rule: &'p PurposeRule| Some((rule, rule.redemption.as_ref()?)));
    Accepted::TxnToken {
        replacement: purposes.iter().map(live).collect(),
        redemption: purposes.iter().find_map(expired),
    }
}
