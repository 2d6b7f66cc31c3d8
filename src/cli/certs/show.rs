//! `writ certs show`: the content of a certificate, in the terms of policies.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use writ_verifier::pem;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::{CertsError, read};
use crate::cli::OptionalConfig;
use crate::cli::printable;
use crate::config::policy::folder;
use writ_core::client::{Identity, IdentityKind, PeerCertificate, Thumbprint, to_rfc4514};
use writ_core::policy::PolicySet;
use writ_platform::clock::Timestamp;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file with certificates, PEM
    file: PathBuf,
    #[command(flatten)]
    config: OptionalConfig,
    /// Answer in JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn shown(&self, now: Timestamp) -> Result<String, CertsError> {
        let chain = certificates(&self.file)?;
        let policies = self.policies()?;
        let all = chain.iter().map(|der| Shown::read(der, &self.file)).collect::<Result<Vec<_>, _>>()?;
        if self.json {
            let all: Vec<_> = all.iter().map(|shown| shown.to_json(policies.as_ref())).collect();
            return Ok(json!({ "certificates": all }).to_string());
        }
        let mut text = String::new();
        for (at, shown) in all.iter().enumerate() {
            let title = format!("{}, certificate {} of {}", self.file.display(), at + 1, all.len());
            let _ = writeln!(text, "{title}\n{}", shown.to_text(policies.as_ref(), now));
        }
        Ok(text.trim_end().to_owned())
    }

    /// The policies of the configuration; `None` without a configuration or with invalid policies.
    fn policies(&self) -> Result<Option<PolicySet>, CertsError> {
        let settings = self.config.read().map_err(CertsError::Config)?.and_then(|reading| reading.policies);
        Ok(settings.and_then(|settings| folder::load(&settings).ok()).map(|(set, _)| set))
    }
}

/// The hosts that a server certificate names, separated by commas.
pub(super) fn host_names(path: &Path) -> Result<String, CertsError> {
    let chain = certificates(path)?;
    let shown = Shown::read(&chain[0], path)?;
    let is_host = |kind: &Option<IdentityKind>| matches!(kind, Some(IdentityKind::SanDns | IdentityKind::SanIp));
    let hosts = shown.names.into_iter().filter(|(kind, _, _)| is_host(kind)).map(|(_, _, value)| value);
    Ok(hosts.collect::<Vec<_>>().join(", "))
}

/// The DER of each certificate in a file, which has at least one.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, CertsError> {
    let blocks = pem::blocks(read(path)?.as_bytes(), pem::CERTIFICATE, |_| true);
    let blocks = blocks.map_err(|_| unreadable(path, "contains no certificate (PEM)"))?;
    Ok(blocks.into_iter().map(|block| block.der).collect())
}

fn unreadable(path: &Path, problem: &str) -> CertsError {
    CertsError::Certificate { path: path.to_owned(), problem: problem.to_owned() }
}

/// The content of one certificate.
struct Shown {
    peer: Option<PeerCertificate>,
    subject: String,
    issuer: String,
    /// How policies register it, its type, its value.
    names: Vec<(Option<IdentityKind>, &'static str, String)>,
    from: Timestamp,
    until: Timestamp,
    usages: Vec<&'static str>,
    is_ca: bool,
    thumbprint: Thumbprint,
}

impl Shown {
    fn read(der: &[u8], path: &Path) -> Result<Self, CertsError> {
        let (_, parsed) = X509Certificate::from_der(der)
            .map_err(|_| unreadable(path, "contains a certificate that cannot be parsed"))?;
        let name = |name| to_rfc4514(name).unwrap_or_else(|| "(cannot be read)".to_owned());
        let at = |seconds: i64| Timestamp::from_epoch(u64::try_from(seconds).unwrap_or(0));
        let names = parsed.subject_alternative_name().ok().flatten();
        Ok(Self {
            peer: PeerCertificate::parse(der).ok(),
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            names: names.iter().flat_map(|names| &names.value.general_names).map(named).collect(),
            from: at(parsed.validity().not_before.timestamp()),
            until: at(parsed.validity().not_after.timestamp()),
            usages: usages(&parsed),
            is_ca: parsed.is_ca(),
            thumbprint: Thumbprint::of(der),
        })
    }

    fn to_text(&self, policies: Option<&PolicySet>, now: Timestamp) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(text, "  {label:<11} {}", printable(value));
        };
        line("subject", &self.subject);
        line("issuer", &self.issuer);
        for (_, kind, value) in &self.names {
            line("name", &format!("{kind} {value}"));
        }
        let note = match () {
            () if now >= self.until => ": EXPIRED",
            () if now < self.from => ": NOT YET",
            () => "",
        };
        line("valid", &format!("{} to {}{note}", self.from, self.until));
        let usages = if self.usages.is_empty() { "any".to_owned() } else { self.usages.join(", ") };
        let is_for_clients = self.usages.is_empty() || self.usages.contains(&"clientAuth");
        line(
            "usage",
            &match self.is_ca {
                true => format!("{usages} (a CA)"),
                false if is_for_clients => usages,
                false => format!("{usages}; it is not for clients (no clientAuth)"),
            },
        );
        line("x5t#S256", &self.thumbprint.to_string());
        match policies {
            None => line("policies", "not compared: there is no configuration with valid policies"),
            Some(set) => match self.clients(set).as_slice() {
                [] => line("policies", "none matches"),
                clients => line("policies", &clients.join(", ")),
            },
        }
        let possible = self.identities();
        if !possible.is_empty() {
            let _ = writeln!(text, "  a policy can register it by one of");
            for (kind, value) in possible {
                let _ = writeln!(text, "    {}", printable(&written(kind, &value)));
            }
        }
        text
    }

    fn to_json(&self, policies: Option<&PolicySet>) -> Value {
        let names: Vec<_> = self.names.iter().map(|(_, kind, value)| json!({ "type": kind, "value": value })).collect();
        json!({
            "subject": self.subject, "issuer": self.issuer, "names": names,
            "not_before": self.from.to_string(), "not_after": self.until.to_string(),
            "usages": self.usages, "ca": self.is_ca, "x5t_s256": self.thumbprint.to_string(),
            "policies": policies.map(|set| self.clients(set)),
        })
    }

    /// The clients whose policies it matches. Whether its CA is trusted is not checked.
    fn clients(&self, policies: &PolicySet) -> Vec<String> {
        let Some(peer) = &self.peer else { return Vec::new() };
        let found = policies.candidates(peer);
        found.map(|found| found.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    /// The names by which a policy can register it.
    fn identities(&self) -> Vec<(IdentityKind, String)> {
        let Some(peer) = self.peer.as_ref().filter(|_| !self.is_ca) else { return Vec::new() };
        let names = self.names.iter().filter_map(|(kind, _, value)| Some(((*kind)?, value.clone())));
        let subject = std::iter::once((IdentityKind::SubjectDn, self.subject.clone()));
        let itself = std::iter::once((IdentityKind::Thumbprints, self.thumbprint.to_string()));
        let all = names.chain(subject).chain(itself.filter(|_| peer.is_self_issued()));
        all.filter(|(kind, value)| Identity::parse(*kind, value).is_ok_and(|identity| peer.matches(&identity)))
            .collect()
    }
}

/// The line of a policy in TOML: a literal string, in which a backslash is not special, unless it has an apostrophe.
fn written(kind: IdentityKind, value: &str) -> String {
    let plain = !value.contains(['"', '\\']);
    let value = match kind {
        IdentityKind::Thumbprints => format!("[\"{value}\"]"),
        _ if plain => format!("\"{value}\""),
        _ if !value.contains('\'') => format!("'{value}'"),
        _ => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    format!("{} = {value}", kind.name())
}

fn named(name: &GeneralName<'_>) -> (Option<IdentityKind>, &'static str, String) {
    match name {
        GeneralName::DNSName(text) => (Some(IdentityKind::SanDns), "DNS", (*text).to_owned()),
        GeneralName::URI(text) => (Some(IdentityKind::SanUri), "URI", (*text).to_owned()),
        GeneralName::RFC822Name(text) => (Some(IdentityKind::SanEmail), "email", (*text).to_owned()),
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            let ip = v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from));
            match ip {
                Ok(ip) => (Some(IdentityKind::SanIp), "IP", ip.to_string()),
                Err(_) => (None, "IP", "(of a wrong length)".to_owned()),
            }
        }
        GeneralName::DirectoryName(name) => (None, "directory", to_rfc4514(name).unwrap_or_default()),
        _ => (None, "other", "(a kind that policies do not use)".to_owned()),
    }
}

fn usages(certificate: &X509Certificate<'_>) -> Vec<&'static str> {
    let Ok(Some(usage)) = certificate.extended_key_usage() else { return Vec::new() };
    let usage = usage.value;
    let known = [
        (usage.client_auth, "clientAuth"),
        (usage.server_auth, "serverAuth"),
        (usage.any, "anyExtendedKeyUsage"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
        (!usage.other.is_empty(), "others"),
    ];
    known.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_expired_certificate_and_one_not_for_clients_are_marked() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        super::super::init(folder.path(), &[], now).unwrap();
        let args =
            Args { file: folder.path().join("server.pem"), config: OptionalConfig { config: None }, json: false };
        let text = args.shown(now).unwrap();
        assert!(
            !text.contains("EXPIRED") && text.contains("serverAuth; it is not for clients (no clientAuth)"),
            "{text}"
        );
        let later = now + Duration::from_secs(900 * 86_400);
        assert!(args.shown(later).unwrap().contains(": EXPIRED\n"));
        assert!(args.shown(Timestamp::from_epoch(0)).unwrap().contains(": NOT YET\n"));
        let ca = Args { file: folder.path().join("ca.pem"), ..args };
        assert!(!ca.shown(now).unwrap().contains("not for clients"));
    }
}
