//! `[[purpose]]`: who gets a purpose, and the conditions between its keys.

use std::time::Duration;

use writ_core::policy::{Actors, Glob, PurposeRule};
use writ_core::request::Source;
use writ_platform::clock::HumanDuration;

use super::details::{check_condition, mapping};
use super::redemption::redemption;
use super::settings::{Context, Settings};
use crate::config::document::Section;

/// R-DELAY-17
const MAX_REDEEMED_LIFETIME: Duration = Duration::from_secs(300);

pub(super) fn purposes(tables: Vec<Section<'_>>, context: Context<'_>) -> Vec<PurposeRule> {
    let mut read: Vec<(PurposeRule, Section<'_>)> = Vec::new();
    for mut table in tables {
        if let Some(rule) = purpose(&mut table, context) {
            check_duplicates(&rule, &table, &read);
            read.push((rule, table));
        } else {
            table.finish();
        }
    }
    check_evidence(&read);
    read.into_iter()
        .map(|(rule, table)| {
            table.finish();
            rule
        })
        .collect()
}

/// A source in two tables of one purpose would be ambiguous.
fn check_duplicates(rule: &PurposeRule, table: &Section<'_>, earlier: &[(PurposeRule, Section<'_>)]) {
    for (other, _) in earlier.iter().filter(|(other, _)| other.purpose == rule.purpose) {
        for source in rule.accept.iter().filter(|source| other.accept.contains(source)) {
            let (source, line) = (source.name(), other.line);
            table.error("accept", format_args!("\"{source}\" is accepted for this scope in line {line} already"));
        }
    }
}

/// A client that may redeem must not be able to make the token itself: holding one is the evidence that the transaction
/// happened (R-DELAY-20).
fn check_evidence(read: &[(PurposeRule, Section<'_>)]) {
    for (rule, table) in read {
        let redeemable = |(other, _): &&(PurposeRule, _)| other.purpose == rule.purpose && other.redemption.is_some();
        let Some((other, _)) = read.iter().find(redeemable) else { continue };
        for source in rule.accept.iter().filter(|source| source.is_self_asserted()) {
            let (source, line) = (source.name(), other.line);
            table.error(
                "accept",
                format_args!(
                    "\"{source}\" needs no token, and this scope can be redeemed (line {line}): holding the expired \
                     token must be the evidence that the transaction happened"
                ),
            );
        }
    }
}

/// One table; `None` without a scope.
fn purpose(table: &mut Section<'_>, context: Context<'_>) -> Option<PurposeRule> {
    let settings = context.settings;
    table.require(&["scope", "accept"]);
    let scope = table.parse("scope", str::parse);
    let accept = table.list("accept", source).unwrap_or_default();
    let mapping = mapping(table, &accept, context);
    let when = table.parse("when", |source| context.compiled.condition(source));
    check_condition(table, when.as_deref(), &mapping, &accept);
    let redemption = table.table("redemption").map(|mut table| {
        let read = redemption(&mut table, settings);
        table.finish();
        read
    });
    let rule = PurposeRule {
        line: table.line(),
        lifetime: table.duration("lifetime").unwrap_or(settings.default_lifetime),
        subjects: table.list("subjects", glob),
        granted_by: table.list("granted_by", str::parse).unwrap_or_default(),
        outlive: table.flag("outlive").unwrap_or(false),
        actors: table.choice("actors", &[("ignore", Actors::Ignored)]).unwrap_or(Actors::Refused),
        mapping,
        when,
        pdp: table.flag("pdp").unwrap_or(false),
        accept,
        redemption,
        lines: table.lines(),
        purpose: scope?,
    };
    check_sources(table, &rule, settings);
    check_lifetime(table, &rule, settings);
    if rule.pdp && !settings.pdp {
        table.error("pdp", "needs an external decision point: writ.toml has no section [pdp]");
    }
    Some(rule)
}

fn check_sources(table: &Section<'_>, rule: &PurposeRule, settings: &Settings) {
    let accepts = |source| rule.accept.contains(&source);
    if rule.accept.is_empty() && !table.has_error("accept") {
        table.gap("accept", "must name at least one source");
    }
    for (index, source) in rule.accept.iter().enumerate() {
        if rule.accept[..index].contains(source) {
            table.error("accept", format_args!("names \"{}\" twice", source.name()));
        }
        if !settings.has(*source) {
            let (name, nothing) = (source.name(), !rule.accept.iter().any(|source| settings.has(*source)));
            let nothing = if nothing { ": no client can get this purpose" } else { "" };
            table.warning(
                "accept",
                format_args!("accepts \"{name}\", which no [[subject_issuer]] has in token_types{nothing}"),
            );
        }
    }
    match (rule.accept.iter().find(|source| source.is_outside()), rule.granted_by.is_empty()) {
        (Some(outside), true) if !table.has_error("granted_by") => table.gap(
            "granted_by",
            format_args!(
                "must name the scopes of a subject token that allow this, since \"{}\" is accepted",
                outside.name()
            ),
        ),
        (None, false) => table.warning("granted_by", "has no effect: no token of a subject issuer is accepted"),
        _ => {}
    }
    if rule.actors == Actors::Ignored && !rule.accept.iter().any(|source| source.brings_claims()) {
        table.warning("actors", "has no effect: no subject token that could name an actor is accepted");
    }
    if rule.subjects.as_ref().is_some_and(Vec::is_empty) {
        table.warning("subjects", "matches no subject: only the client's own subject is left");
    }
    let expired = accepts(Source::ExpiredTxnToken);
    if expired && rule.redemption.is_none() && !table.has_error("redemption") {
        table.gap(
            "redemption",
            "is missing: \"expired_txn_token\" is accepted, so a [purpose.redemption] table must say whose tokens and how often",
        );
    }
    if !expired && rule.redemption.is_some() && !table.has_error("accept") {
        table.error("redemption", "does not apply: `accept` does not name \"expired_txn_token\"");
    }
}

fn check_lifetime(table: &Section<'_>, rule: &PurposeRule, settings: &Settings) {
    if rule.lifetime > settings.max_lifetime {
        let most = HumanDuration(settings.max_lifetime);
        table.error("lifetime", format_args!("must be at most tokens.max_lifetime, \"{most}\""));
    }
    if rule.redemption.is_some() && rule.lifetime > MAX_REDEEMED_LIFETIME {
        table.error("lifetime", "must be at most \"5m\" where expired tokens are redeemed");
    }
}

fn source(name: &str) -> Result<Source, String> {
    Source::from_name(name).ok_or_else(|| {
        let names = Source::ALL.map(|source| format!("\"{}\"", source.name()));
        format!("must be one of {}", names.join(", "))
    })
}

fn glob(pattern: &str) -> Result<Glob, &'static str> {
    (!pattern.is_empty()).then(|| Glob::new(pattern)).ok_or("an empty pattern matches no subject")
}
