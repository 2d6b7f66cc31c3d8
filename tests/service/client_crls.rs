//! Which revocation lists are in force, as clients and operators see it (CONTRACT 2, 6; ).

use std::time::{Duration, SystemTime};

use rustls::AlertDescription;
use toml::Value as Toml;

use crate::scene::MAILER;
use crate::support::pki::{self, Ca, Credentials};
use crate::support::workload::{Form, Workload};
use crate::support::writ::{Setup, Writ, spiffe_id};

const HOUR: Duration = Duration::from_secs(3600);

fn mailer(ca: &Ca) -> Credentials {
    let mut params = pki::client("mailer");
    params.subject_alt_names = vec![pki::uri(&spiffe_id("mailer"))];
    ca.issue(params)
}

fn setup(files: &[&str]) -> Setup {
    Setup::new().client("mailer", MAILER).set("tls.client_crls", files.to_vec())
}

#[track_caller]
fn is_served(client: &Workload) {
    client.token(&Form::client_credentials("mailbox.deliver")).issued();
}

#[track_caller]
fn is_revoked(writ: &Writ, credentials: &Credentials) {
    assert_eq!(writ.workload_with(credentials).alert(), AlertDescription::CertificateRevoked);
}

/// Writes the file and waits until a line of the log says `words`.
fn change(writ: &Writ, content: &str, words: &str) {
    let act = || {
        writ.setup.write("certs/a.crl", content);
        writ.hup();
    };
    writ.expect_log(words, act, |line| line.to_string().contains(words));
}

/// the newer list applies, whether it is added in front, behind, or in a file of its own.
#[test]
fn the_newest_list_applies_wherever_it_is() {
    let revoked_by = |files: &[&str], write: &dyn Fn(&Setup, &str, &str)| {
        let setup = setup(files);
        let revoked = setup.credentials("mailer");
        let old = setup.ca.crl_valid(1, &[], SystemTime::now() - 3 * HOUR, SystemTime::now() + HOUR);
        let expired = setup.ca.crl_valid(2, &[], SystemTime::now() - 2 * HOUR, SystemTime::now() - HOUR);
        write(&setup, &format!("{old}{expired}"), &setup.ca.crl(3, &[&revoked]));
        setup.run(&["check"]).exits(0).says("note: ").says("(number 3, thisUpdate ").says("1 revoked)");
        let writ = setup.start();
        is_revoked(&writ, &revoked);
        is_served(&writ.workload("mailer"));
    };
    revoked_by(&["certs/a.crl"], &|setup, old, new| setup.write("certs/a.crl", &format!("{old}{new}")));
    revoked_by(&["certs/a.crl"], &|setup, old, new| setup.write("certs/a.crl", &format!("{new}{old}")));
    revoked_by(&["certs/a.crl", "certs/b.crl"], &|setup, old, new| {
        setup.write("certs/a.crl", old);
        setup.write("certs/b.crl", new);
    });
    revoked_by(&["certs/b.crl", "certs/a.crl"], &|setup, old, new| {
        setup.write("certs/a.crl", old);
        setup.write("certs/b.crl", new);
    });
}

/// A CA with a new key keeps its name; both halves of the clients are served, and revoked, by lists of their own.
#[test]
fn a_ca_with_a_new_key_has_two_lists() {
    for reverse in [false, true] {
        let setup = setup(&["certs/a.crl", "certs/b.crl"]);
        let new = Ca::root("clients and servers");
        let (of_old, of_new) = (mailer(&setup.ca), mailer(&new));
        let revoked = mailer(&new);
        setup.write("certs/ca.pem", &format!("{}{}", setup.ca.pem(), new.pem()));
        let (first, second) = if reverse { ("certs/b.crl", "certs/a.crl") } else { ("certs/a.crl", "certs/b.crl") };
        setup.write(first, &setup.ca.crl(7, &[]));
        setup.write(second, &new.crl(1, &[&revoked]));
        let writ = setup.start();
        is_served(&writ.workload_with(&of_old));
        is_served(&writ.workload_with(&of_new));
        is_revoked(&writ, &revoked);
    }
}

/// not by way of a file without the list either; what was in force stays in force.
#[test]
fn an_older_list_does_not_come_back_in_steps() {
    let setup = setup(&["certs/a.crl"]);
    let revoked = setup.credentials("mailer");
    let (old, new) = (setup.ca.crl(1, &[]), setup.ca.crl(2, &[&revoked]));
    setup.write("certs/a.crl", &new);
    let writ = setup.start();
    change(&writ, &Ca::root("another").crl(1, &[]), "was in force and was removed from the files");
    is_revoked(&writ, &revoked);
    change(&writ, &old, "is older than the one in force");
    is_revoked(&writ, &revoked);
    is_served(&writ.workload("mailer"));
}

/// not even if no client of the intermediate CA connected while its newer list was in the files.
#[test]
fn an_older_list_of_an_intermediate_does_not_come_back() {
    let setup = setup(&["certs/a.crl", "certs/b.crl"]);
    let team = setup.ca.intermediate(pki::ca_params("team"));
    let (revoked, other) = (mailer(&team), mailer(&team));
    let (old, new) = (team.crl(1, &[]), team.crl(2, &[&revoked]));
    setup.write("certs/a.crl", &old);
    setup.write("certs/b.crl", &setup.ca.crl(1, &[]));
    let writ = setup.start();
    change(&writ, &new, "(number 2, ");
    change(&writ, &old, " and older than ");
    is_revoked(&writ, &revoked);
    is_served(&writ.workload_with(&other));
}

/// A list that is forged, or dated ahead, takes no genuine one away and is reported by `writ check` and the log.
#[test]
fn a_list_that_is_not_genuine_does_not_replace_a_genuine_one() {
    let ahead = SystemTime::now() + 48 * HOUR;
    for (bad, words) in [
        (
            Box::new(|_: &Setup| Ca::root("clients and servers").crl(9, &[])) as Box<dyn Fn(&Setup) -> String>,
            "is not signed by",
        ),
        (Box::new(move |setup: &Setup| setup.ca.crl_valid(9, &[], ahead, ahead + HOUR)), "is from the future"),
    ] {
        let setup = setup(&["certs/a.crl", "certs/b.crl"]);
        let revoked = setup.credentials("mailer");
        setup.write("certs/a.crl", &bad(&setup));
        setup.write("certs/b.crl", &setup.ca.crl(1, &[]));
        setup.run(&["check"]).exits(0).says("warning: ").says(words);
        let writ = setup.start();
        is_served(&writ.workload("mailer"));
        writ.expect_event("certificates_reloaded", || {
            writ.setup.write("certs/b.crl", &writ.setup.ca.crl(2, &[&revoked]));
            writ.hup();
        });
        is_revoked(&writ, &revoked);
        is_served(&writ.workload("mailer"));
    }
}

/// An operator who wonders why every certificate is refused finds the reason here.
#[test]
fn check_says_what_is_in_force_for_each_ca() {
    let setup = setup(&["certs/a.crl", "certs/b.crl"]);
    let second = Ca::root("second authority");
    setup.write("certs/ca.pem", &format!("{}{}", setup.ca.pem(), second.pem()));
    setup.write("certs/a.crl", &setup.ca.crl(1, &[]));
    setup.write("certs/b.crl", &Ca::root("third authority").crl(5, &[]));
    let said = setup.run(&["check"]).exits(0);
    let said = said.says("in force for the CA CN=clients and servers: CRL ").says("(number 1, ");
    let said = said.says("the CA CN=second authority has no CRL that can be used; all of its certificates are refused");
    said.says("is from CN=third authority, which is not in tls.client_ca");
    let json = setup.run(&["check", "--json"]).exits(0).json();
    let notes = json["problems"].as_array().unwrap().iter().filter(|problem| problem["severity"] == "note").count();
    assert_eq!((json["ok"].as_bool(), notes), (Some(true), 2), "{json}");
}

/// Several CAs, written as `[[tls.client_ca]]`.
#[test]
fn several_files_of_cas_are_read() {
    let mut setup = setup(&[]);
    let second = Ca::root("second authority");
    setup.write("certs/second.pem", &second.pem());
    let table = |file: &str| Toml::Table([("file".to_owned(), file.into())].into_iter().collect());
    setup.change("tls.client_ca", vec![table("certs/ca.pem"), table("certs/second.pem")]);
    setup.run(&["check"]).exits(0);
    let writ = setup.start();
    is_served(&writ.workload("mailer"));
    is_served(&writ.workload_with(&mailer(&second)));
}
