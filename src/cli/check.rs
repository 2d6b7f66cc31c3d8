//! `writ check`: reports in one run everything that would prevent the service from starting, and risks.

mod online;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use self::online::Answered;
use super::{RequiredConfig, print};
use crate::config::policy::folder;
use crate::config::{Problem, Severity, environment, file};
use writ_core::policy::{ClientPolicy, PolicySet};
use writ_platform::clock::Timestamp;

/// The problems of the file at `path`, of the files that it names, and of the policies. Nothing is started or changed.
pub(super) fn check(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Vec<Problem> {
    check_read(&file::read(path, environment))
}

fn check_read(reading: &file::Reading) -> Vec<Problem> {
    let mut problems = reading.problems.clone();
    // Files and policies are checked even if the configuration has errors: the next run should not find new ones.
    problems.extend(reading.files.iter().flat_map(|files| files.problems(Timestamp::now())));
    if let Some(settings) = &reading.policies {
        problems.extend(match folder::load(settings) {
            Ok((set, warnings)) => [warnings, foreign_clients(reading, &settings.directory, &set)].concat(),
            Err(problems) => problems,
        });
    }
    problems
}

/// A note for each policy whose client belongs to another SPIFFE trust domain than the service, and to none that the
/// configuration of a CA names: one of the two may be a mistake.
fn foreign_clients(reading: &file::Reading, directory: &Path, policies: &PolicySet) -> Vec<Problem> {
    let Some(own) = &reading.trust_domain else { return Vec::new() };
    let note = |policy: &Arc<ClientPolicy>| {
        let domain = policy.identity.spiffe_trust_domain()?;
        let is_named = reading.files.as_ref().is_some_and(|files| files.names_trust_domain(domain));
        if is_named || domain == own.as_str() {
            return None;
        }
        let message = format!(
            "its SPIFFE ID belongs to the trust domain {domain}, but that of the service (trust_domain) is {own}"
        );
        let path = directory.join(format!("{}.toml", policy.client_id));
        let key = policy.identity.kind().name().to_owned();
        Some(Problem { severity: Severity::Note, key, ..Problem::of_file(&path, message) })
    };
    policies.iter().filter_map(note).collect()
}

/// `writ check`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) config: RequiredConfig,
    /// Also fetch the keys of each subject issuer, and call introspection endpoints and the decision point once
    #[arg(long)]
    online: bool,
    /// Answer in JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let reading = file::read(&args.config.config, environment::variables());
    let mut problems = check_read(&reading);
    let looked = match &reading.files {
        Some(named) if args.online => Some(online::call_all(named, reading.trust_domain.as_ref()).await),
        _ => None,
    };
    let mut answered = None;
    if let Some(looked) = looked {
        problems.extend(looked.problems);
        answered = Some(looked.answered);
    }
    let mut text = String::new();
    if args.json {
        text = to_json(&problems, answered.as_deref());
    } else {
        for answered in answered.iter().flatten() {
            let _ = writeln!(text, "{answered}");
        }
        text.push_str(&to_text(&problems));
    }
    print(&text, ExitCode::from(exit_code(&problems)))
}

/// 0 if the service can start, otherwise 2.
pub(super) fn exit_code(problems: &[Problem]) -> u8 {
    if problems.iter().any(Problem::is_error) { 2 } else { 0 }
}

/// A line for each problem, and a summary.
pub(super) fn to_text(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        let _ = writeln!(text, "{problem}");
    }
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => text.push_str("ok\n"),
        (0, warnings) => drop(writeln!(text, "ok, {}", counted(warnings, "warning"))),
        (errors, 0) => drop(writeln!(text, "{}", counted(errors, "error"))),
        (errors, warnings) => drop(writeln!(text, "{}, {}", counted(errors, "error"), counted(warnings, "warning"))),
    }
    text
}

/// `{"ok":…,"problems":[{"severity","file","line","key","message"}]}`, with `"online":[{"key","message"}]` after
/// `--online`.
fn to_json(problems: &[Problem], online: Option<&[Answered]>) -> String {
    let mut answer = json!({ "ok": exit_code(problems) == 0, "problems": problems });
    if let Some(online) = online {
        answer["online"] = json!(online);
    }
    answer.to_string()
}

fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::cli::certs;

    /// A folder with everything that the service needs under the default names, and one client.
    fn complete() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        certs::init(&folder.path().join("certs"), &["tts.example".to_owned()], Timestamp::now()).unwrap();
        write(&folder, "writ.toml", "trust_domain = \"d.example\"\nissuer = \"https://tts.example\"\n");
        write(&folder, "policies/one.toml", "client_id = \"one\"\ntls_client_auth_san_dns = \"one.example\"\n");
        folder
    }

    fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn checked(folder: &tempfile::TempDir) -> (u8, String) {
        let problems = check(&folder.path().join("writ.toml"), std::iter::empty());
        let folder = format!("{}/", folder.path().display());
        (exit_code(&problems), to_text(&problems).replace(&folder, ""))
    }

    #[test]
    fn a_service_that_can_start_has_no_problems() {
        assert_eq!(checked(&complete()), (0, "ok\n".to_owned()));
    }

    #[test]
    fn the_shipped_example_lacks_only_its_certificates() {
        let problems = check(Path::new("writ.toml"), std::iter::empty());
        let missing =
            |problem: &Problem| problem.file == Path::new("writ.toml") && problem.message.starts_with("certs/");
        assert!(problems.iter().all(missing), "{}", to_text(&problems));
    }

    /// A-009, A-117, A-137
    #[test]
    fn each_named_file_is_checked() {
        let other = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
        for (name, text, expected) in [
            ("certs/server.pem", "", "tls.certificate: certs/server.pem: holds no CERTIFICATE block (PEM)"),
            (
                "certs/server.pem",
                "-----BEGIN CERTIFICATE-----\nAAAA\n",
                "certs/server.pem: block 1 (CERTIFICATE) has no line -----END",
            ),
            ("certs/server.pem", &other.cert.pem(), "certs/server.pem: does not fit the key in tls.private_key"),
            ("certs/server.key", "x", "tls.private_key: certs/server.key: holds no private key (PEM)"),
            ("certs/ca.pem", "x", "tls.client_ca: certs/ca.pem: holds no CERTIFICATE block (PEM)"),
            ("certs/ca.pem", &other.cert.pem(), "tls.client_ca: certs/ca.pem: block 1 is not a CA"),
            ("certs/sealing.key", "AAAA", "keys.sealing_key: certs/sealing.key: does not contain 32 bytes in base64"),
            ("certs/sealing.key", "!", "certs/sealing.key: does not contain 32 bytes in base64"),
            ("policies/a.toml", "", "policies/a.toml:1: client_id: is missing"),
        ] {
            let folder = complete();
            write(&folder, name, text);
            let (code, text) = checked(&folder);
            assert!(code == 2 && text.contains(expected), "{name}: {text}");
        }
    }

    /// A-137
    #[test]
    fn the_secret_for_introspection_is_for_its_owner_and_one_line() {
        let folder = complete();
        let issuer = "trust_domain = \"d\"\nissuer = \"https://tts.example\"\n\
            [[subject_issuer]]\nissuer = \"https://login.example\"\naudience = [\"a\"]\n\
            [subject_issuer.introspection]\nendpoint = \"https://login.example/introspect\"\nclient_id = \"writ\"\n\
            client_secret_file = \"login.secret\"\n";
        write(&folder, "writ.toml", issuer);
        let key = "writ.toml:9: subject_issuer[0].introspection.client_secret_file: ";
        for (content, mode, expected) in [
            (None, 0, "login.secret: No such file"),
            (Some("secret\n"), 0o644, "login.secret: has mode 0644"),
            (Some("\n"), 0o600, "login.secret: does not contain a client secret"),
            (Some("secret\n"), 0o640, "warning: login.secret: can be read by its group"),
            (Some("secret\n"), 0o600, ""),
        ] {
            if let Some(content) = content {
                let path = write(&folder, "login.secret", content);
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            let (code, text) = checked(&folder);
            let is_valid = mode == 0o640 || expected.is_empty();
            assert_eq!((code == 0, text == "ok\n"), (is_valid, expected.is_empty()), "{text}");
            assert!(expected.is_empty() || text.contains(&format!("{key}{expected}")), "{text}");
        }
    }

    /// A-009
    #[test]
    fn a_file_without_crls_is_refused() {
        let folder = complete();
        write(
            &folder,
            "writ.toml",
            "trust_domain = \"d\"\nissuer = \"https://tts.example\"\n[tls]\nclient_crls = [\n\"empty.pem\", \"gone.pem\"]\n",
        );
        write(&folder, "empty.pem", "");
        let (code, text) = checked(&folder);
        assert_eq!(code, 2);
        assert!(text.contains("writ.toml:4: tls.client_crls: empty.pem: holds no X509 CRL block (PEM)"), "{text}");
        assert!(text.contains("writ.toml:4: tls.client_crls: gone.pem: cannot be read: No such file"), "{text}");
        assert!(text.ends_with("2 errors\n"), "{text}");
    }

    /// A-137
    #[test]
    fn a_secret_that_others_can_read_is_refused_and_one_for_the_group_is_a_warning() {
        let folder = complete();
        let mode = |name: &str, mode| {
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("certs/server.key", 0o640);
        mode("certs/sealing.key", 0o640);
        let (code, text) = checked(&folder);
        assert!(code == 0 && text.ends_with("ok, 2 warnings\n"), "{text}");
        assert!(text.contains("tls.private_key: warning: certs/server.key: can be read by its group"), "{text}");
        mode("certs/sealing.key", 0o604);
        let (code, text) = checked(&folder);
        assert!(code == 2 && text.contains("certs/sealing.key: has mode 0604"), "{text}");
        assert!(text.ends_with("1 error, 1 warning\n"), "{text}");
    }

    #[test]
    fn files_and_policies_are_checked_even_if_the_configuration_has_errors() {
        let folder = complete();
        write(&folder, "writ.toml", "trust_domain = \"d\"\n[keys]\nsealing_key = \"gone.key\"\n");
        write(&folder, "policies/a.toml", "x = 1\n");
        write(&folder, "certs/server.key", "x");
        let (_, text) = checked(&folder);
        for expected in [
            "writ.toml:1: issuer: is missing",
            "writ.toml:3: keys.sealing_key: gone.key: No such file",
            "writ.toml: tls.private_key: certs/server.key: holds no private key",
            "policies/a.toml:1: x: unknown",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    /// `writ serve` would refuse to start; a missing store is no problem.
    #[test]
    fn a_folder_of_the_store_that_others_can_enter_is_refused() {
        let folder = complete();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        for (mode, is_valid) in [(0o700, true), (0o755, false), (0o1777, false), (0o770, false)] {
            fs::set_permissions(&data, fs::Permissions::from_mode(mode)).unwrap();
            let (code, text) = checked(&folder);
            assert_eq!((code == 0, text == "ok\n"), (is_valid, is_valid), "{mode:o}: {text}");
            let expected =
                format!("writ.toml: store.path: data has mode {mode:04o}: the store must be its owner's alone");
            assert!(is_valid || text.contains(&expected), "{text}");
        }
    }

    #[test]
    fn a_client_of_another_trust_domain_is_a_note() {
        let folder = complete();
        let policy = |domain: &str| {
            let text = format!("client_id = \"two\"\ntls_client_auth_san_uri = \"spiffe://{domain}/two\"\n");
            write(&folder, "policies/two.toml", &text);
            checked(&folder)
        };
        assert_eq!(policy("d.example"), (0, "ok\n".to_owned()));
        let (code, text) = policy("other.example");
        assert!(code == 0 && text.ends_with("ok\n"), "{text}");
        assert!(
            text.contains(
                "policies/two.toml: tls_client_auth_san_uri: note: its SPIFFE ID belongs to the trust domain other"
            ),
            "{text}"
        );
    }

    /// The key's intended value is not known then.
    #[test]
    fn the_default_of_a_key_with_an_invalid_value_is_not_checked() {
        let folder = complete();
        fs::remove_dir_all(folder.path().join("certs")).unwrap();
        let least = "trust_domain = \"d\"\nissuer = \"https://tts.example\"\n";
        write(&folder, "writ.toml", &format!("{least}[tls]\ncertificate = 1\n[keys]\nsealing_key = \"\"\n"));
        let (_, text) = checked(&folder);
        assert!(!text.contains("certs/server.pem") && !text.contains("sealing.key"), "{text}");
        assert!(text.contains("certs/server.key: No such file"), "{text}");
        write(&folder, "writ.toml", &format!("{least}[tls]\nprivate_key = \"other.key\"\ncertificate = \n"));
        let (_, text) = checked(&folder);
        assert!(!text.contains("certs/") && text.contains("other.key: No such file"), "{text}");
    }

    #[test]
    fn json_has_the_same_problems() {
        let folder = complete();
        write(&folder, "policies/a.toml", "client_id = \"b\"\n");
        let problems = check(&folder.path().join("writ.toml"), std::iter::empty());
        let json: serde_json::Value = serde_json::from_str(&to_json(&problems, None)).unwrap();
        assert_eq!(json["ok"], false);
        let problem = &json["problems"][0];
        assert_eq!(
            (&problem["severity"], &problem["line"], &problem["key"]),
            (&"error".into(), &1.into(), &"client_id".into())
        );
        assert!(problem["file"].as_str().unwrap().ends_with("/policies/a.toml"));
        assert!(problem["message"].as_str().unwrap().contains("not the name of the file"));
        assert_eq!(to_json(&[], None), r#"{"ok":true,"problems":[]}"#);
    }
}
