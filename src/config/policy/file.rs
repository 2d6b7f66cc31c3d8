//! A policy file as an operator writes it: the client, and its [purposes](super::purpose).

use std::path::Path;

use writ_core::client::{ClientId, Identity, IdentityKind};
use writ_core::policy::ClientPolicy;
use writ_verifier::jwks::KeySet;

use super::purpose::purposes;
use super::settings::{Context, Settings};
use crate::config::document::{Places, Report, Section, non_empty};
use crate::config::problem::Problem;

#[derive(Debug)]
pub(super) struct Reading {
    /// As far as it could be read; not to be used if there is an error.
    pub(super) policy: Option<ClientPolicy>,
    /// Errors and warnings, by line.
    pub(super) problems: Vec<Problem>,
    pub(super) places: Places,
}

impl Reading {
    pub(super) fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

/// Parses the file at `path`, which is named after the client.
pub(super) fn parse(path: &Path, text: &str, context: Context<'_>) -> Reading {
    let (report, table) = Report::parse(path, text);
    let mut root = Section::root(&report, table);
    let policy = client(&mut root, path, context);
    root.finish();
    let (places, problems) = report.into_parts();
    Reading { policy, problems, places }
}

fn client(root: &mut Section<'_>, path: &Path, context: Context<'_>) -> Option<ClientPolicy> {
    root.require(&["client_id"]);
    let client_id = root.parse("client_id", |text| client_id(text, path));
    let identity = identity(root);
    let subject = root.parse("subject", str::parse);
    let description = root.string("description");
    let introspect = root.flag("introspect").unwrap_or(false);
    let subject_token_audience = root.list("subject_token_audience", non_empty).unwrap_or_default();
    let vouches_for_bound_tokens = root.flag("vouches_for_bound_tokens").unwrap_or(false);
    let opaque_tokens_from = root.parse("opaque_tokens_from", |text| introspecting(text, context.settings));
    let keys = keys(root, context);
    let purposes = purposes(root.tables("purpose"), context);
    let client_id = client_id?;
    Some(ClientPolicy {
        description,
        identity: identity?,
        subject: subject.or_else(|| client_id.as_str().parse().ok())?,
        introspect,
        subject_token_audience,
        vouches_for_bound_tokens,
        opaque_tokens_from,
        keys,
        purposes,
        client_id,
    })
}

fn keys(root: &mut Section<'_>, context: Context<'_>) -> Option<KeySet> {
    let path = root.path("jwks_file")?;
    let keys = (context.read)(&path).and_then(|document| KeySet::parse(&document).map_err(|cause| cause.to_string()));
    let keys = keys.and_then(|keys| {
        let named = keys.keys().all(|key| key.kid().is_some());
        if named { Ok(keys) } else { Err("has a key without kid, which no token can name".to_owned()) }
    });
    if let Some(left_out) = keys.as_ref().ok().and_then(KeySet::left_out) {
        root.warning("jwks_file", format_args!("{}: cannot use {left_out}", path.display()));
    }
    keys.map_err(|cause| root.error("jwks_file", format_args!("{}: {cause}", path.display()))).ok()
}

fn client_id(text: &str, path: &Path) -> Result<ClientId, String> {
    let id: ClientId = text.parse().map_err(|cause| format!("{cause}"))?;
    if path.file_stem().is_none_or(|stem| stem != id.as_str()) {
        return Err(format!("is not the name of the file, which must be {id}.toml"));
    }
    Ok(id)
}

fn introspecting(issuer: &str, settings: &Settings) -> Result<String, &'static str> {
    let known = settings.introspecting_issuers.iter().any(|known| known == issuer);
    known.then(|| issuer.to_owned()).ok_or("must be the issuer of a [[subject_issuer]] that has introspection")
}

/// The identity of the client; exactly one must be written (R-AUTHN-05).
fn identity(root: &mut Section<'_>) -> Option<Identity> {
    let kinds: Vec<_> = IdentityKind::ALL.into_iter().filter(|kind| root.has(kind.name())).collect();
    let identities: Vec<_> = IdentityKind::ALL.into_iter().map(|kind| identity_of(root, kind)).collect();
    match kinds.as_slice() {
        [_] => identities.into_iter().flatten().next(),
        [] => {
            let names = IdentityKind::ALL.map(IdentityKind::name).join(", ");
            root.gap("tls_client_auth_*", format_args!("is missing: exactly one identity is needed, of {names}"));
            None
        }
        [first, others @ ..] => {
            for other in others {
                root.error(other.name(), format_args!("is a second identity: {} is set already", first.name()));
            }
            None
        }
    }
}

fn identity_of(root: &mut Section<'_>, kind: IdentityKind) -> Option<Identity> {
    let key = kind.name();
    if kind != IdentityKind::Thumbprints {
        return root.parse(key, |text| Identity::parse(kind, text));
    }
    let texts = root.list(key, non_empty)?;
    Identity::thumbprints(&texts).map_err(|cause| root.error(key, cause)).ok()
}

#[cfg(test)]
mod tests;
