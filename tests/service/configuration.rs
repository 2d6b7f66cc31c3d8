//! `writ.toml`, the environment and the command line (CONTRACT 6, 8; A-137, A-139).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use toml::Table;

use crate::scene::{GATEWAY, MAILER};
use crate::support::cli::{self, Output};
use crate::support::issuer::Issuer;
use crate::support::pdp::Pdp;
use crate::support::pki;
use crate::support::workload::Form;
use crate::support::writ::Setup;

fn good() -> Setup {
    Setup::new().client("mailer", MAILER)
}

/// Fails the test unless the configuration is refused, naming the key.
#[track_caller]
fn refused(setup: &Setup, key: &str) {
    setup.run(&["check"]).exits(2).says(key);
}

/// `writ.toml` with `text` appended, checked.
fn check_text(setup: &Setup, change: impl FnOnce(String) -> String) -> Output {
    drop(setup.command(&["check"]));
    let text = fs::read_to_string(setup.path("writ.toml")).unwrap();
    setup.write("changed.toml", &change(text));
    let mut command = cli::command(&setup.path("."));
    command.args(["check", "--json", "--config"]).arg(setup.path("changed.toml"));
    cli::run(command)
}

#[test]
fn a_good_configuration_passes() {
    let setup = good();
    setup.run(&["check"]).exits(0);
    assert_eq!(setup.run(&["check", "--json"]).exits(0).json(), json!({"ok": true, "problems": []}));
}

/// A-139
#[test]
fn an_unknown_key_is_named_with_its_file_and_line() {
    let output = check_text(&good(), |text| format!("{text}\n[tokenz]\n")).exits(2);
    let problem = &output.json()["problems"][0];
    assert!(problem["file"].as_str().unwrap().ends_with("changed.toml"), "{problem}");
    assert!(problem.to_string().contains("tokenz"), "{problem}");

    let output = check_text(&good(), |text| text.replace("sealing_key", "sealing_kee")).exits(2);
    let problems = output.json()["problems"].clone();
    let unknown =
        problems.as_array().unwrap().iter().find(|problem| problem.to_string().contains("sealing_kee")).unwrap();
    assert!(unknown["line"].as_u64().unwrap() > 1 && unknown["severity"] == "error", "{unknown}");
}

/// A-139
#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    for broken in ["[tokens\n", "a = \n", "issuer = 1\nissuer = 2\n"] {
        let problems = check_text(&good(), |_| format!("# first\n{broken}")).exits(2).json();
        let is_it = |problem: &Value| problem["severity"] == "error" && problem["line"].as_u64() >= Some(2);
        assert!(problems["problems"].as_array().unwrap().iter().any(is_it), "{problems}");
    }
}

/// A-139
#[test]
fn a_value_of_the_wrong_type_is_refused() {
    refused(&good().set("tokens.lifetime", 60), "lifetime");
    refused(&good().set("listen.http2", "yes"), "http2");
    refused(&good().set("tokens.max_size", "4096"), "max_size");
    refused(&good().set("tls.client_crls", "certs/crl.pem"), "client_crls");
    refused(&good().set("listen.exchange", "localhost"), "exchange");
}

/// CONTRACT 6
#[test]
fn durations_have_a_unit_and_at_least_a_second() {
    for bad in ["0s", "60", "1.5s", "-1s", "1m30", "s", "", "1 m", "9999999999999999999d"] {
        refused(&good().set("tokens.lifetime", bad), "lifetime");
    }
    for name in ["tokens.clock_skew", "limits.drain_delay", "limits.drain_timeout"] {
        good().set(name, "0s").run(&["check"]).exits(0);
    }
    good().set("tokens.lifetime", "1m").set("limits.request_timeout", "2m").run(&["check"]).exits(0);
}

/// A-139
#[test]
fn times_that_contradict_each_other_are_refused() {
    refused(&good().set("tokens.lifetime", "6m"), "lifetime");
    refused(&good().set("tokens.max_lifetime", "16m"), "max_lifetime");
    refused(&good().set("keys.rotation_period", "10m"), "rotation_period");
    refused(&good().set("tokens.clock_skew", "1h"), "clock_skew");
}

/// A-139, R-META-01, R-META-02
#[test]
fn an_issuer_must_be_a_plain_https_url() {
    for bad in [
        "http://tts.example",
        "tts.example",
        "https://tts.example/path",
        "https://tts.example?x",
        "https://tts.example#x",
        "https://u@tts.example",
        "",
    ] {
        refused(&good().set("issuer", bad), "issuer");
    }
}

/// CONTRACT 6
#[test]
fn required_keys_are_named() {
    for name in ["trust_domain", "issuer"] {
        let mut setup = good();
        setup.unset(name);
        refused(&setup, name);
    }
    refused(&good().set("trust_domain", ""), "trust_domain");
    refused(&good().set("trust_domain", "a b"), "trust_domain");
}

fn with_issuer(change: impl FnOnce(&mut Table)) -> Setup {
    let issuer = Issuer::start();
    Setup::new().client("gateway", GATEWAY).issuer_with(&issuer, change)
}

/// A-139, R-SUBJ-01, R-SUBJ-03, R-SUBJ-04
#[test]
fn a_subject_issuer_that_cannot_work_is_refused() {
    with_issuer(|_| {}).run(&["check"]).exits(0);
    let set = |name: &'static str, value: toml::Value| with_issuer(move |table| drop(table.insert(name.into(), value)));
    let discovered = |issuer: &'static str| {
        with_issuer(move |table| {
            table.remove("jwks_uri");
            table.insert("issuer".into(), issuer.into());
        })
    };
    for name in ["http://login.example", "accounts.example", "urn:example:idp"] {
        refused(&discovered(name), "issuer");
        set("issuer", name.into()).run(&["check"]).exits(0);
    }
    refused(&set("jwks_uri", "http://login.example/jwks".into()), "jwks_uri");
    for algorithm in ["HS256", "HS384", "HS512", "none", "ES257"] {
        refused(&set("algorithms", vec![algorithm].into()), "algorithms");
        refused(&set("algorithms", vec!["ES256", algorithm].into()), "algorithms");
    }
    refused(&set("algorithms", toml::Value::Array(Vec::new())), "algorithms");
    refused(&set("token_types", vec!["saml2"].into()), "token_types");
    refused(&set("token_types", vec!["access_token", "id_token"].into()), "id_token_audience");
    refused(&set("jwt_access_tokens", "rfc9069".into()), "jwt_access_tokens");
    refused(&set("audience", toml::Value::Array(Vec::new())), "audience");
    refused(&set("jwks_file", "jwks.json".into()), "jwks_file");
    refused(&set("scopes", vec!["a b"].into()), "scopes");
    refused(&set("ca", "nowhere.pem".into()), "nowhere.pem");
    refused(&set("unheard_of", "x".into()), "unheard_of");
}

/// A-139: `check` finds what would stop the start.
#[test]
fn a_key_file_without_a_key_to_verify_with_is_refused() {
    let setup = with_issuer(|table| {
        table.remove("jwks_uri");
        table.remove("ca");
        table.insert("jwks_file".into(), "issuer.jwks.json".into());
    });
    for text in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AA","kid":"k"}]}"#] {
        setup.write("issuer.jwks.json", text);
        setup.run(&["check"]).exits(2).says("jwks_file").says("issuer.jwks.json");
    }
}

/// A-139, R-SUBJ-07
#[test]
fn two_issuers_cannot_share_a_prefix() {
    let (one, other) = (Issuer::start(), Issuer::start());
    let prefix =
        |prefix: &'static str| move |table: &mut Table| drop(table.insert("subject_prefix".into(), prefix.into()));
    let both = |first, second| {
        Setup::new().client("gateway", GATEWAY).issuer_with(&one, prefix(first)).issuer_with(&other, prefix(second))
    };
    refused(&both("", ""), "subject_prefix");
    both("", "").run(&["serve"]).exits(2).says("subject_prefix");
    refused(&both("a:", "a:"), "subject_prefix");
    both("", "a:").run(&["check"]).exits(0);
    let twice = Setup::new().client("gateway", GATEWAY).issuer_with(&one, prefix("a:")).issuer_with(&one, prefix("b:"));
    refused(&twice, "issuer");
}

/// A-139: every problem in one run.
#[test]
fn all_problems_are_reported_at_once() {
    let setup = good()
        .set("tokens.lifetime", "6m")
        .set("issuer", "http://x")
        .set("listen.exchange", "nowhere")
        .client("bad", "x = 1\n");
    let problems = setup.run(&["check", "--json"]).exits(2).json();
    let text = problems.to_string();
    for key in ["lifetime", "issuer", "exchange", "bad.toml"] {
        assert!(text.contains(key), "{key} is missing: {text}");
    }
    for problem in problems["problems"].as_array().unwrap() {
        assert!(["error", "warning"].contains(&problem["severity"].as_str().unwrap()));
        assert!(problem["message"].is_string());
    }
}

/// CONTRACT 6
#[test]
fn the_environment_overrides_values() {
    let setup = good()
        .environment("WRIT_TOKENS__LIFETIME", "17s")
        .environment("WRIT_TRUST_DOMAIN", "trust-domain.example")
        .environment("WRIT_TOKENS__INCLUDE_ISS", "false")
        .environment("WRIT_TLS__CLIENT_CRLS", "[]")
        .set("trust_domain", "overridden.example");
    let writ = setup.start();
    let issued = writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
    assert_eq!((issued.exp() - issued.iat(), issued.claims.get("iss")), (17, None));
}

/// A-139: a typo must not silently do nothing.
#[test]
fn an_environment_variable_that_fits_nothing_is_refused() {
    for name in ["WRIT_TOKENS__LIFETMIE", "WRIT_TOKNES__LIFETIME", "WRIT_A__B__C"] {
        refused(&good().environment(name, "1s"), name);
    }
    refused(&good().environment("WRIT_TOKENS__LIFETIME", "soon"), "WRIT_TOKENS__LIFETIME");
}

/// CONTRACT 6: Kubernetes sets such names.
#[test]
fn other_environment_variables_are_left_alone() {
    good()
        .environment("WRIT_SERVICE_HOST", "10.0.0.1")
        .environment("WRIT_PORT", "tcp://10.0.0.1:8443")
        .environment("WRITX__Y", "1")
        .run(&["check"])
        .exits(0);
}

/// CONTRACT 6: relative paths start at the file's own folder.
#[test]
fn the_configuration_is_found_by_argument_and_read_from_anywhere() {
    let setup = good();
    drop(setup.command(&["check"]));
    let mut command = cli::command(Path::new("/"));
    command.env_remove("WRIT_CONFIG").args(["check", "--config"]).arg(setup.path("writ.toml"));
    cli::run(command).exits(0);
    let mut command = cli::command(Path::new("/"));
    command.env_remove("WRIT_CONFIG").args(["check", "--config", "/nowhere/writ.toml"]);
    cli::run(command).exits(2).says("/nowhere/writ.toml");
}

/// CONTRACT 8: `writ.toml` in the working folder is the default.
#[test]
fn the_configuration_is_looked_for_in_the_working_folder() {
    let setup = good();
    let mut command = setup.command(&["check"]);
    command.env_remove("WRIT_CONFIG");
    cli::run(command).exits(0);
}

/// A missing file is named.
#[test]
fn missing_files_are_named() {
    for file in ["certs/server.pem", "certs/server.key", "certs/ca.pem"] {
        let setup = good();
        fs::remove_file(setup.path(file)).unwrap();
        refused(&setup, file);
        setup.run(&["serve"]).exits(2).says(file);
    }
    let setup = good();
    fs::remove_dir_all(setup.path("policies")).unwrap();
    refused(&setup, "policies");
}

/// A broken certificate is named too.
#[test]
fn certificates_that_cannot_serve_are_refused() {
    for file in ["certs/server.pem", "certs/server.key", "certs/ca.pem"] {
        for content in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let setup = good();
            setup.write(file, content);
            refused(&setup, file);
        }
    }
    let setup = good();
    setup.write("certs/server.key", &setup.ca.issue(pki::server()).key_pem);
    refused(&setup, "server");
}

/// A-137
#[test]
fn a_private_key_that_others_can_read_is_refused() {
    let setup = good();
    let path = setup.path("certs/server.key");
    for mode in [0o604, 0o644, 0o620, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        setup.run(&["check"]).exits(2).says("server.key").says(&format!("{mode:o}"));
        let problems = setup.run(&["check", "--json"]).json()["problems"].clone();
        assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let problems = setup.run(&["check", "--json"]).exits(0).json();
    assert!(
        problems["problems"].as_array().unwrap().iter().any(|problem| problem["severity"] == "warning"),
        "{problems}"
    );
}

/// A setup whose server certificate is this one, signed by its CA; the key is the certificate's own.
fn served_with(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Setup {
    let setup = good();
    let mut params = pki::server();
    change(&mut params);
    let server = setup.ca.issue(params);
    setup.write("certs/server.pem", &server.certificate_pem);
    setup.write("certs/server.key", &server.key_pem);
    setup
}

/// A server that every client refuses is not "ok", and does not start.
#[test]
fn a_server_certificate_that_every_client_refuses_is_an_error() {
    type Change = fn(&mut rcgen::CertificateParams);
    let ago = |seconds| std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
    let dead: [(&str, Change); 3] = [
        ("is not for localhost", |params| params.subject_alt_names = vec![pki::dns("other.example")]),
        ("lacks the extended key usage serverAuth", |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        }),
        ("is not for localhost", |params| params.subject_alt_names.clear()),
    ];
    for (expected, change) in dead {
        let setup = served_with(change).set("tls.certificate", "certs/server.pem");
        let problems = setup.run(&["check", "--json"]).exits(2).json()["problems"].clone();
        assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
        let problem = &problems[0];
        assert!(problem["key"] == "tls.certificate" && problem["line"].as_u64() > Some(0), "{problem}");
        assert!(problem["message"].as_str().unwrap().contains(expected), "{problem}");
        let writ = setup.start();
        writ.wait_for_log("the operator is told", |line| {
            line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains(expected))
        });
    }
    let expired = served_with(|params| params.not_after = ago(60).into());
    expired.run(&["check"]).exits(2).says("tls.certificate: ").says("expired at ");
    served_with(|params| params.not_before = (ago(0) + std::time::Duration::from_secs(600)).into())
        .run(&["check"])
        .exits(2)
        .says("is not valid before ");
}

/// Every mistake is reported in one run, whatever else is wrong.
#[test]
fn files_and_policies_are_checked_beside_other_mistakes() {
    let setup = served_with(|params| params.subject_alt_names = vec![pki::dns("other.example")])
        .set("tokens.lifetime", "6m")
        .set("tls.client_ca", "certs/gone.pem")
        .set("keys.sealing_key", "certs/gone.key")
        .client("bad", "x = 1\n");
    setup.write("policies/b.yaml", "client_id: b\n");
    for command in ["check", "serve"] {
        let output = setup.run(&[command]).exits(2);
        for expected in
            ["lifetime", "is not for localhost", "gone.pem", "gone.key", "bad.toml", "b.yaml: warning: is not read"]
        {
            assert!((output.stdout.clone() + &output.stderr).contains(expected), "{expected}: {output:#?}");
        }
    }
}

/// Without policies every client would be refused.
#[test]
fn a_folder_without_policies_is_never_ok_and_can_be_filled_while_the_service_runs() {
    let setup = Setup::new();
    setup.run(&["check"]).exits(2).says("policies: holds no policy");
    let writ = setup.start();
    writ.wait_for_log("the operator is told", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("holds no policy"))
    });
    let reloaded = |line: &Value| line["event"] == "policies_reloaded";
    writ.expect_log("the first policy is in force", || writ.change_client("mailer", MAILER), reloaded);
    // The last client is removed like any other.
    let remove = || {
        fs::remove_file(writ.setup.path("policies/mailer.toml")).unwrap();
        writ.hup();
    };
    writ.expect_log("the empty set is in force", remove, reloaded);
}

/// The `ready` line says what the service runs with.
#[test]
fn the_ready_line_has_clients_issuers_and_policies() {
    let writ = with_issuer(|_| {}).client("mailer", MAILER).start();
    let ready = writ.wait_for_log("ready", |line| line["event"] == "ready");
    assert_eq!((&ready["clients"], &ready["issuers"]), (&json!(2), &json!(1)), "{ready}");
    assert_eq!(ready["policies"].as_str().unwrap().len(), 43, "{ready}");
}

/// Both forms of encrypted keys that openssl writes are recognised.
#[test]
fn an_encrypted_private_key_is_reported_as_encrypted() {
    let bodies = [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
    ];
    for body in bodies {
        let setup = good();
        setup.write("certs/server.key", body);
        setup.run(&["check"]).exits(2).says("certs/server.key: is encrypted, and no password can be entered");
    }
}

/// With `--online` the keys of issuers are fetched and the decision point is asked; the result is explained.
#[test]
fn check_online_asks_issuers_and_the_decision_point() {
    let online = |setup: &Setup| setup.run(&["check", "--online", "--json"]);
    let (issuer, pdp) = (Issuer::start(), Pdp::start());
    let setup = |change: &dyn Fn(&mut Table)| {
        pdp.configure(Setup::new().client("gateway", GATEWAY).issuer_with(&issuer, change))
    };
    let good = setup(&|_| {});
    let answer = online(&good).exits(0).json();
    assert!(answer["online"][1]["message"].as_str().unwrap().starts_with("answers with a decision"), "{answer}");
    assert_eq!(answer["online"][0]["key"], "subject_issuer[0].jwks_uri", "{answer}");
    assert!(answer["online"][0]["message"].as_str().unwrap().contains("usable key"), "{answer}");
    assert_eq!(good.run(&["check", "--json"]).json().get("online"), None);

    let other = pki::Ca::root("somebody else");
    for (change, expected) in [
        (("jwks_uri", "https://localhost:1/jwks"), "the connection was refused"),
        (("jwks_uri", "https://nowhere.invalid/jwks"), "the host name cannot be resolved"),
        (("ca", "other.pem"), "it was not issued by a CA that is trusted here"),
    ] {
        let setup = setup(&|table| drop(table.insert(change.0.into(), change.1.into())));
        setup.write("other.pem", &other.pem());
        let answer = online(&setup).exits(2).json();
        let problem = &answer["problems"][0];
        assert!(problem["key"] == "subject_issuer[0].jwks_uri" && problem["line"].as_u64() > Some(0), "{answer}");
        assert!(problem["message"].as_str().unwrap().contains(expected), "{expected}: {answer}");
        assert_eq!(answer["online"].as_array().unwrap().len(), 1, "the decision point answers: {answer}");
    }
    let unfit = setup(&|table| drop(table.insert("algorithms".into(), vec!["PS512"].into())));
    unfit.run(&["check", "--online"]).exits(2).says("1 usable key").says("none of them fits `algorithms`");
    let nowhere = format!("{}/nowhere", issuer.url());
    setup(&|table| drop(table.insert("jwks_uri".into(), nowhere.clone().into())))
        .run(&["check", "--online"])
        .exits(2)
        .says("/nowhere: not a JWK set");
}
