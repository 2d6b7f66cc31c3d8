//! `request_details`, `tctx`, `rctx` and `when` of a purpose.

use std::sync::Arc;

use writ_core::policy::condition::Condition;
use writ_core::policy::mapping::{Mapping, fits_a_token};
use writ_core::policy::schema::Schema;
use writ_core::request::Source;
use writ_verifier::Delayed;

use super::settings::Context;
use crate::config::document::Section;

/// The keys that determine `tctx` and `rctx`.
const KEYS: [&str; 3] = ["request_details", "tctx", "rctx"];

/// `request_details`, `tctx` and `rctx`; their problems have been reported.
pub(super) fn mapping(table: &mut Section<'_>, accept: &[Source], context: Context<'_>) -> Mapping {
    if accept == [Source::ExpiredTxnToken] {
        for key in KEYS {
            if table.ignore(key) {
                table.error(key, "does not apply: a redeemed token carries its details and context over unchanged");
            }
        }
        return Mapping::default();
    }
    let has_schema = table.has("request_details");
    let mut mapping = Mapping { schema: schema(table, context), ..Mapping::default() };
    if let Some(mut tctx) = table.table("tctx") {
        mapping.tctx_copy = tctx.list("copy", member).unwrap_or_default();
        mapping.tctx_fixed = tctx.members("fixed").unwrap_or_default();
        mapping.tctx_subject = tctx.pairs("subject").unwrap_or_default();
        if !fits_a_token(&mapping.tctx_fixed) {
            tctx.error("fixed", "is nested too deeply, or has too many members, for verifiers to accept the token");
        }
        check_tctx(&tctx, &mapping, has_schema, accept);
        tctx.finish();
    }
    if let Some(mut rctx) = table.table("rctx") {
        mapping.rctx_copy = rctx.list("copy", rctx_member).unwrap_or_default();
        rctx.finish();
    }
    mapping
}

fn schema(table: &mut Section<'_>, context: Context<'_>) -> Option<Arc<Schema>> {
    let path = table.path("request_details")?;
    let schema = context.compiled.schema(&path, context.read);
    let schema =
        schema.map_err(|cause| table.error("request_details", format_args!("{}: {cause}", path.display()))).ok()?;
    for place in schema.ignored() {
        let what =
            "is not a keyword of JSON Schema 2020-12 and has no effect; correct it, or begin its name with \"x-\"";
        table.warning("request_details", format_args!("{}: #{place} {what}", path.display()));
    }
    Some(schema)
}

fn check_tctx(tctx: &Section<'_>, mapping: &Mapping, has_schema: bool, accept: &[Source]) {
    if !mapping.tctx_copy.is_empty() && !has_schema {
        tctx.error("copy", "needs request_details: only what fits a schema is copied");
    }
    for name in &mapping.tctx_copy {
        check_described(tctx, "copy", name, mapping.schema.as_deref());
        if mapping.tctx_fixed.raw(name).is_some() || mapping.tctx_subject.iter().any(|(member, _)| member == name) {
            tctx.warning("copy", format_args!("\"{name}\" has no effect: the policy gives this member its value"));
        }
    }
    for (name, claim) in &mapping.tctx_subject {
        // R-SUBJ-10: no verifier could check the proof of possession.
        if claim == "cnf" {
            tctx.error("subject", "must not name \"cnf\": the key of a sender is never copied");
        }
        if mapping.tctx_fixed.raw(name).is_some() {
            tctx.error("subject", format_args!("\"{name}\" is a member of `fixed` too; remove one of them"));
        }
    }
    if let Some(source) = accept.iter().find(|source| **source == Source::ClientCredentials)
        && !mapping.tctx_subject.is_empty()
    {
        let source = source.name();
        tctx.warning("subject", format_args!("refuses every request by \"{source}\", which brings no claims"));
    }
}

/// A member that the schema does not describe is probably a mistake; where the schema allows no others, it is one.
fn check_described(table: &Section<'_>, key: &str, name: &str, schema: Option<&Schema>) {
    let Some(schema) = schema.filter(|schema| schema.describes(name) == Some(false)) else { return };
    if schema.is_closed() {
        table.error(key, format_args!("names \"{name}\", which the schema of request_details does not allow"));
    } else {
        table.warning(key, format_args!("names \"{name}\", which the schema of request_details does not describe"));
    }
}

/// On a redemption `details` are the `tctx` of the presented token, whose members other policies define.
pub(super) fn check_condition(table: &Section<'_>, when: Option<&Condition>, mapping: &Mapping, accept: &[Source]) {
    let Some(when) = when.filter(|_| !accept.contains(&Source::ExpiredTxnToken)) else { return };
    let members = when.members_of_details();
    if !members.is_empty() && mapping.schema.is_none() && !table.has_error("request_details") {
        table.error("when", "reads `details`, which stay empty without request_details");
    }
    for name in members {
        check_described(table, "when", name, mapping.schema.as_deref());
    }
}

fn member(name: &str) -> Result<String, &'static str> {
    let fits = (1..=128).contains(&name.len()) && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned()).ok_or("a member's name has 1 to 128 bytes and no control characters")
}

fn rctx_member(name: &str) -> Result<String, &'static str> {
    if name == Delayed::MEMBER {
        return Err("must not name \"delayed\": only a redemption adds that member");
    }
    member(name)
}
