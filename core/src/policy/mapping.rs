//! Request details → `tctx`, request context → `rctx`: the members that a purpose puts into its tokens.
//!
//! Only members that the policy lists are copied, verbatim. A value that the policy sets takes precedence over one in the
//! request; once a transaction has a member, its value never changes.

use std::sync::Arc;

use writ_verifier::json::{self, Limits};
use writ_verifier::{Delayed, Members};

use super::exact::{self, is_plain};
use super::schema::{Schema, Unfit};
use crate::request::{TokenRequest, holds_jws};

/// `request_details`, `tctx` and `rctx` of one purpose.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// The schema of the request details; without one they are ignored.
    pub schema: Option<Arc<Schema>>,
    /// Members of the request details that are copied into `tctx`.
    pub tctx_copy: Vec<String>,
    /// Members of `tctx` that are the same in every token.
    pub tctx_fixed: Members,
    /// Members of `tctx`, each with the name of the subject token's claim that is its value.
    pub tctx_subject: Vec<(String, String)>,
    /// Members of the request context that are copied into `rctx`.
    pub rctx_copy: Vec<String>,
}

/// The members that a transaction carries from token to token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TransactionContext {
    /// The details of the transaction.
    pub(crate) tctx: Members,
    /// The circumstances of the request.
    pub(crate) rctx: Members,
}

/// Why details or context are not accepted. The texts contain no values, and names only if they are plain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The request details do not fit the purpose's schema.
    #[error("request_details do not fit the schema of a requested purpose{}", at(.0.as_deref()))]
    Unfit(Option<String>),
    /// One member has two values: from two purposes, or from the presented token and this request.
    #[error("a member has two different values{}", at(Some(.0.as_str())))]
    TwoValues(String),
    /// Verifiers would refuse a token with these members.
    #[error("a member is nested too deeply, or they are too many, for a token{}", at(.0.as_deref()))]
    Unreadable(Option<String>),
    /// A member contains a token, which must not be embedded in another.
    #[error("a member holds a token{}", at(Some(.0.as_str())))]
    HoldsToken(String),
}

/// The subject token lacks the claim for a member; both names are from the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClaimMissing<'m> {
    pub(crate) member: &'m str,
    pub(crate) claim: &'m str,
}

impl From<Unfit> for Rejection {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit.member)
    }
}

/// The name, if it is plain: it may come from the request.
fn at(name: Option<&str>) -> String {
    name.filter(|name| is_plain(name)).map(|name| format!(": {name}")).unwrap_or_default()
}

impl Mapping {
    /// The request details, if this purpose has a schema for them.
    pub(crate) fn details<'a>(&self, request: &'a TokenRequest) -> Option<&'a Members> {
        request.details.as_ref().filter(|_| self.schema.is_some())
    }

    /// Validates request details by the schema. If `required`, missing details are validated like an empty object.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn admit(&self, request: &TokenRequest, required: bool) -> Result<(), Unfit> {
        let Some(schema) = &self.schema else { return Ok(()) };
        let none = Members::default();
        let sent = request.details.as_ref().or(required.then_some(&none));
        sent.map_or(Ok(()), |details| schema.admit(details))
    }

    /// The members that a request adds. `claims` are those of the subject token, if claims are copied.
    ///
    /// # Errors
    /// [`ClaimMissing`].
    pub(crate) fn apply(
        &self,
        request: &TokenRequest,
        claims: Option<&Members>,
    ) -> Result<TransactionContext, ClaimMissing<'_>> {
        let mut made = TransactionContext::default();
        copy(self.details(request), &self.tctx_copy, &mut made.tctx);
        copy(request.context.as_ref(), &self.rctx_copy, &mut made.rctx);
        if let Some(claims) = claims {
            for (member, claim) in &self.tctx_subject {
                if !made.tctx.adopt(member, claims, claim) {
                    return Err(ClaimMissing { member, claim });
                }
            }
        }
        for (member, _) in self.tctx_fixed.iter() {
            made.tctx.adopt(member, &self.tctx_fixed, member);
        }
        Ok(made)
    }
}

/// Copies the members that were sent.
fn copy(from: Option<&Members>, names: &[String], to: &mut Members) {
    for (from, name) in from.iter().flat_map(|from| names.iter().map(move |name| (from, name))) {
        to.adopt(name, from, name);
    }
}

impl TransactionContext {
    /// The names of all members, those of `tctx` first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tctx.iter().chain(self.rctx.iter()).map(|(name, _)| name)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tctx.is_empty() && self.rctx.is_empty()
    }

    /// Adds the members of `other`; existing ones must have equal values.
    ///
    /// # Errors
    /// [`Rejection::TwoValues`].
    pub(crate) fn extend(&mut self, other: &Self) -> Result<(), Rejection> {
        extend(&mut self.tctx, &other.tctx)?;
        extend(&mut self.rctx, &other.rctx)
    }

    /// Refuses members that verifiers would refuse: in the token to be issued, or in one that it may be redeemed for, which
    /// has one more member.
    ///
    /// # Errors
    /// [`Rejection::Unreadable`], with the name of the member if a single one is too deep.
    pub(crate) fn refuse_unreadable(&self) -> Result<(), Rejection> {
        if self.tctx.is_empty() && self.rctx.is_empty() {
            return Ok(()); // what a redemption adds fits alone
        }
        let mut later = self.rctx.clone();
        let delayed = Delayed { iat: u64::MAX, exp: u64::MAX, use_number: u32::MAX };
        let later = later.set(Delayed::MEMBER, &delayed).map(|()| later);
        if later.is_ok_and(|later| fits_a_token(&self.tctx) && fits_a_token(&later)) {
            return Ok(());
        }
        let alone = |(_, raw): &(&str, &str)| !value_fits_a_token(raw);
        let member = self.tctx.iter().chain(self.rctx.iter()).find(alone);
        Err(Rejection::Unreadable(member.map(|(name, _)| name.to_owned())))
    }

    /// Refuses a token, or `subject_token` itself, in any text of any member: readers of the Txn-Token would obtain that
    /// token too (R-CLAIM-09).
    ///
    /// # Errors
    /// [`Rejection::HoldsToken`].
    pub(crate) fn refuse_tokens(&self, subject_token: Option<&str>) -> Result<(), Rejection> {
        let holds = |text: &str| subject_token.is_some_and(|token| text.contains(token)) || holds_jws(text);
        let members = || self.tctx.iter().chain(self.rctx.iter());
        // A value that cannot be parsed may contain a token.
        let within = |raw: &str| exact::read(raw).is_none_or(|value| exact::any_text(&value, &holds));
        match members().find(|(name, raw)| holds(name) || within(raw)) {
            Some((name, _)) => Err(Rejection::HoldsToken(name.to_owned())),
            None => Ok(()),
        }
    }
}

/// Whether verifiers accept the value as a member of `tctx` or `rctx`.
pub(crate) fn value_fits_a_token(raw: &str) -> bool {
    json::check(&format!("{{\"context\":{{\"member\":{raw}}}}}"), Limits::DEFAULT).is_ok()
}

/// Whether verifiers accept `context` as `tctx` or `rctx`.
pub fn fits_a_token(context: &Members) -> bool {
    let text = serde_json::to_string(context).unwrap_or_default();
    json::check(&format!("{{\"context\":{text}}}"), Limits::DEFAULT).is_ok()
}

fn extend(members: &mut Members, others: &Members) -> Result<(), Rejection> {
    for (name, value) in others.iter() {
        match members.raw(name) {
            Some(present) if !exact::equal(present, value) => return Err(Rejection::TwoValues(name.to_owned())),
            Some(_) => {}
            None => drop(members.adopt(name, others, name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::request::Presented;

    fn members(text: &str) -> Members {
        Members::parse(text, Limits::DEFAULT).unwrap()
    }

    fn request(details: Option<&str>, context: Option<&str>) -> TokenRequest {
        let scope = "trade.execute".parse().unwrap();
        let (details, context) = (details.map(members), context.map(members));
        TokenRequest { scope, presented: Presented::Client, details, context }
    }

    fn text(members: &Members) -> String {
        serde_json::to_string(members).unwrap()
    }

    fn mapping() -> Mapping {
        Mapping {
            schema: Some(Arc::new(Schema::parse(br#"{"required":["action"]}"#).unwrap())),
            tctx_copy: ["action", "desk", "quantity"].map(str::to_owned).to_vec(),
            tctx_fixed: members(r#"{"desk":"retail"}"#),
            tctx_subject: vec![("level".to_owned(), "customer_level".to_owned())],
            rctx_copy: vec!["req_ip".to_owned()],
        }
    }

    /// A-085, A-087: members are copied verbatim, and only if listed; values of the policy win.
    #[test]
    fn only_listed_members_are_copied_and_the_policy_wins() {
        let details = r#"{"quantity":100000000000000000001,"action":"buy","desk":"prop","level":"gold","other":1}"#;
        let request = request(Some(details), Some(r#"{"req_ip":"192.0.2.1","delayed":{"use":1},"iat":1}"#));
        let claims = members(r#"{"sub":"alice","customer_level":"basic"}"#);
        let made = mapping().apply(&request, Some(&claims)).unwrap();
        let expected = r#"{"action":"buy","desk":"retail","quantity":100000000000000000001,"level":"basic"}"#;
        assert_eq!(text(&made.tctx), expected);
        assert_eq!(text(&made.rctx), r#"{"req_ip":"192.0.2.1"}"#);
    }

    #[test]
    fn a_member_that_was_not_sent_is_left_out_and_a_claim_must_be_there() {
        let claims = members(r#"{"customer_level":null}"#);
        let made = mapping().apply(&request(None, None), Some(&claims)).unwrap();
        assert_eq!((text(&made.tctx).as_str(), made.rctx.is_empty()), (r#"{"level":null,"desk":"retail"}"#, true));
        let missing = ClaimMissing { member: "level", claim: "customer_level" };
        assert_eq!(mapping().apply(&request(None, None), Some(&Members::default())), Err(missing));
        assert_eq!(text(&mapping().apply(&request(None, None), None).unwrap().tctx), r#"{"desk":"retail"}"#);
    }

    #[test]
    fn without_a_schema_details_are_ignored() {
        let open = Mapping { schema: None, ..mapping() };
        let request = request(Some(r#"{"action":"buy"}"#), None);
        assert_eq!(text(&open.apply(&request, None).unwrap().tctx), r#"{"desk":"retail"}"#);
        assert!(open.details(&request).is_none() && open.admit(&request, true).is_ok());
    }

    /// R-REQ-12: a request without details is valid unless the policy demands members.
    #[test]
    fn members_that_a_schema_demands_must_be_sent() {
        let admit = |sent, required| mapping().admit(&request(sent, None), required).map_err(Rejection::from);
        assert_eq!(admit(None, true), Err(Rejection::Unfit(None)));
        assert_eq!(admit(None, false), Ok(()));
        assert_eq!(admit(Some("{}"), false), Err(Rejection::Unfit(None)));
        assert_eq!(admit(Some(r#"{"action":1}"#), true), Ok(()));
    }

    #[test]
    fn a_member_keeps_its_value() {
        let context = |tctx: &str, rctx: &str| TransactionContext { tctx: members(tctx), rctx: members(rctx) };
        let present = || context(r#"{"a":1.0,"b":{"x":1,"y":2}}"#, r#"{"ip":"i"}"#);
        let mut same = present();
        same.extend(&context(r#"{"b":{"y":2,"x":1},"a":1,"c":3}"#, r#"{"ip":"i"}"#)).unwrap();
        assert_eq!(text(&same.tctx), r#"{"a":1.0,"b":{"x":1,"y":2},"c":3}"#, "its text stays too");
        for (tctx, rctx, name) in
            [(r#"{"a":2}"#, "{}", "a"), ("{}", r#"{"ip":"j"}"#, "ip"), (r#"{"a":null}"#, "{}", "a")]
        {
            assert_eq!(present().extend(&context(tctx, rctx)), Err(Rejection::TwoValues(name.to_owned())));
        }
    }

    /// R-REQ-12: members that readers would refuse are not written, nor members that leave no space for the mark of a
    /// redemption.
    #[test]
    fn a_context_leaves_room_for_its_readers() {
        let nested = |levels: usize| format!("{{\"a\":1,\"deep\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let wide = |count: usize| {
            let all: Vec<_> = (0..count).map(|number| format!("\"m{number}\":0")).collect();
            format!("{{{}}}", all.join(","))
        };
        let open = Limits { depth: 64, members: 10_000 };
        let refused = |tctx: &str, rctx: &str| {
            let read = |text: &str| Members::parse(text, open).unwrap();
            TransactionContext { tctx: read(tctx), rctx: read(rctx) }.refuse_unreadable().err()
        };
        let deep = Some(Rejection::Unreadable(Some("deep".to_owned())));
        let many = Some(Rejection::Unreadable(None));
        assert_eq!((refused(&nested(14), "{}"), refused("{}", &nested(14))), (None, None));
        assert_eq!((refused(&nested(15), "{}"), refused("{}", &nested(15))), (deep.clone(), deep));
        assert_eq!((refused(&wide(256), "{}"), refused("{}", &wide(255))), (None, None));
        assert_eq!((refused(&wide(257), "{}"), refused("{}", &wide(256))), (many.clone(), many));
    }

    /// A-087, R-CLAIM-09
    #[test]
    fn no_token_travels_in_a_token() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        let jws = format!("{header}.e30.c2ln");
        let escaped = jws.replace('e', "\\u0065");
        for value in [
            format!("\"{jws}\""),
            format!("\"Bearer {jws}, please\""),
            format!("\"see.{jws}\""),
            format!("\"{escaped}\""),
            format!("[{{\"a\":\"{jws}\"}}]"),
            format!("{{\"{jws}\":1}}"),
            format!("\"{header}.k.i.c.t\""),
            "\"an 0paque-token, in a sentence\"".to_owned(),
        ] {
            let made = TransactionContext { tctx: members(&format!("{{\"a\":{value}}}")), rctx: Members::default() };
            assert_eq!(made.refuse_tokens(Some("0paque-token")), Err(Rejection::HoldsToken("a".to_owned())), "{value}");
            let made = TransactionContext { tctx: Members::default(), rctx: made.tctx };
            assert!(made.refuse_tokens(Some("0paque-token")).is_err(), "{value}");
        }
        for value in [json!("a.b.c"), json!("v1.2.3"), json!("10.0.0.1"), json!("e30.e30.e30"), json!({"alg": "ES256"})]
        {
            let made = TransactionContext { tctx: members(&json!({"a": value}).to_string()), rctx: Members::default() };
            assert_eq!(made.refuse_tokens(Some("0paque-token")), Ok(()), "{value}");
        }
    }

    #[test]
    fn rejections_name_plain_members_only() {
        let text = |name: &str| Rejection::TwoValues(name.to_owned()).to_string();
        assert!(text("ticker").ends_with(": ticker"));
        assert!(text("a \"b\"").ends_with("different values"));
        assert!(Rejection::Unfit(None).to_string().ends_with("of a requested purpose"));
    }
}
