//! What a downstream service makes of tokens, with the crate `writ-verifier` and the keys of a running service
//! (CONTRACT 9; A-107, A-116, A-141; area VERIFY).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use writ_verifier::jwks::KeySet;
use writ_verifier::{Builder, SingleUse, TxnToken, Verifier, VerifyError};

use crate::scene::{self, Shared, delayed, expired, redeem};
use crate::support::answer::Issued;
use crate::support::issuer::Issuer;
use crate::support::jose::Key;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, TRUST_DOMAIN, eventually, now};

const DELIVER: &str = "mailbox.deliver";
const PURGE: &str = "account.purge";

const MAILER: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials"]
request_details = "any.json"
tctx.copy = ["size"]
rctx.copy = ["req_ip"]
"#;

/// A token of the service, and a key that is published beside the service's own, to sign what the service would not.
struct Scene {
    writ: Arc<Writ>,
    issued: Issued,
    key: Key,
}

static WRIT: Shared<Writ> = Shared::new();

fn start() -> Writ {
    let setup = Setup::new().client("mailer", MAILER);
    setup.write("policies/any.json", "{}");
    setup.start()
}

impl Scene {
    fn new() -> Self {
        let writ = WRIT.get(start);
        let issued = issue(&writ);
        Self { writ, issued, key: Key::es256("beside") }
    }

    fn jwks(&self) -> String {
        let mut keys = self.writ.site().jwks();
        keys.push(self.key.jwk());
        json!({"keys": keys}).to_string()
    }

    /// A verifier that takes both keys.
    fn builder(&self) -> Builder {
        Verifier::builder(TRUST_DOMAIN).jwks_json(self.jwks())
    }

    fn verify(&self, value: &str) -> Result<TxnToken, VerifyError> {
        verify(&self.builder().build().unwrap(), value)
    }

    /// At that second.
    fn verify_at(&self, value: &str, second: u64) -> Result<TxnToken, VerifyError> {
        let keys = KeySet::parse(self.jwks().as_bytes()).unwrap();
        self.builder().build().unwrap().verify_at(value, &keys, UNIX_EPOCH + Duration::from_secs(second))
    }

    /// The token with this member of its header, or without it where the value is null, signed by the other key.
    fn with_header(&self, name: &str, value: Value) -> String {
        let mut header = set(&self.issued.header, "kid", json!(self.key.kid));
        header = set(&header, name, value);
        self.key.token(&header.to_string(), &self.issued.claims.to_string())
    }

    /// The same for a claim.
    fn with_claim(&self, name: &str, value: Value) -> String {
        let header = set(&self.issued.header, "kid", json!(self.key.kid));
        self.key.token(&header.to_string(), &set(&self.issued.claims, name, value).to_string())
    }
}

fn set(members: &Value, name: &str, value: Value) -> Value {
    let mut members = members.clone();
    members[name] = value;
    members.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    members
}

fn issue(writ: &Writ) -> Issued {
    let form = Form::client_credentials(DELIVER)
        .set("request_details", r#"{"size":7}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.1"}"#);
    writ.workload("mailer").token(&form).issued()
}

/// A runtime to wait on: the verifier fetches in the background.
fn wait<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(future)
}

fn verify(verifier: &Verifier, value: &str) -> Result<TxnToken, VerifyError> {
    wait(verifier.verify(value))
}

/// R-VERIFY-01: of the value; that there is only one header must be checked by the code that reads the request.
#[test]
fn a_header_value_is_exactly_one_compact_jws() {
    let scene = Scene::new();
    let token = &scene.issued.token;
    assert!(scene.verify(token).is_ok());
    assert!(scene.verify(&format!(" \t{token} ")).is_ok(), "optional whitespace");
    for value in [
        format!("{token},{token}"),
        format!("{token}, {token}"),
        format!("Bearer {token}"),
        format!("{token};x"),
        String::new(),
    ] {
        assert_eq!(scene.verify(&value).unwrap_err(), VerifyError::Malformed, "{value}");
    }
}

/// R-VERIFY-02
#[test]
fn the_signature_is_verified_with_the_key_that_kid_names() {
    let scene = Scene::new();
    assert!(scene.verify(&scene.issued.token).is_ok());
    let (signed, _) = scene.issued.token.rsplit_once('.').unwrap();
    assert_eq!(scene.verify(&format!("{signed}.{}", "A".repeat(86))).unwrap_err(), VerifyError::SignatureInvalid);
    // A good signature by another published key does not count: keys are not tried one after the other.
    assert!(scene.verify(&scene.with_header("kid", json!("beside"))).is_ok());
    let borrowed = scene.with_header("kid", json!(scene.issued.kid()));
    assert_eq!(scene.verify(&borrowed).unwrap_err(), VerifyError::SignatureInvalid);
    assert_eq!(scene.verify(&scene.with_header("kid", json!("unknown"))).unwrap_err(), VerifyError::KeyUnknown);
}

/// A verifier that fetches the keys of the service, and how often it did.
fn fetching(writ: &Writ) -> (Verifier, Arc<AtomicUsize>) {
    let port = writ.site().endpoints().discovery.unwrap().port();
    let fetches = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&fetches);
    let verifier = Verifier::builder(TRUST_DOMAIN)
        .jwks_url(format!("https://localhost:{port}/.well-known/jwks.json"))
        .root_certificate_pem(&writ.site().ca)
        .unwrap()
        .on_fetch(move |_| _ = counter.fetch_add(1, Ordering::SeqCst))
        .build()
        .unwrap();
    (verifier, fetches)
}

/// R-VERIFY-02
#[test]
fn an_unknown_kid_makes_the_keys_be_fetched_once_more_and_not_again() {
    let scene = Scene::new();
    let (verifier, fetches) = fetching(&scene.writ);
    verify(&verifier, &scene.issued.token).unwrap();
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    for kid in ["a", "b", "c"] {
        let token = scene.with_header("kid", json!(kid));
        assert_eq!(verify(&verifier, &token).unwrap_err(), VerifyError::KeyUnknown);
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
}

/// R-VERIFY-02
#[test]
fn a_key_that_is_new_since_the_last_fetch_is_found() {
    let writ = start();
    let (verifier, fetches) = fetching(&writ);
    verify(&verifier, &issue(&writ).token).unwrap();
    let published: Vec<String> = writ.site().jwks().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
    for kid in &published {
        writ.run(&["keys", "revoke", kid]).exits(0);
    }
    let issued = issue(&writ);
    assert!(!published.iter().any(|kid| kid == issued.kid()));
    verify(&verifier, &issued.token).unwrap();
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
}

/// R-KEYS-06: of readers.
#[test]
fn a_key_set_is_read_as_plain_json_too() {
    let (scene, elsewhere) = (Scene::new(), Issuer::start());
    elsewhere.publish(&scene.writ.site().jwks()); // as `application/json`
    let verifier = Verifier::builder(TRUST_DOMAIN)
        .jwks_url(elsewhere.jwks_uri())
        .root_certificate_pem(elsewhere.ca_pem())
        .and_then(Builder::build)
        .unwrap();
    verify(&verifier, &scene.issued.token).unwrap();
}

/// R-VERIFY-03
#[test]
fn only_the_type_of_a_txn_token_is_accepted() {
    let scene = Scene::new();
    assert_eq!(scene.issued.header["typ"], "txntoken+jwt");
    for typ in ["txntoken+jwt", "TxnToken+JWT", "application/txntoken+jwt", "Application/txntoken+jwt"] {
        assert!(scene.verify(&scene.with_header("typ", json!(typ))).is_ok(), "{typ}");
    }
    for typ in [Value::Null, json!("JWT"), json!("at+jwt"), json!("txn_token"), json!("N_A"), json!("")] {
        assert_eq!(scene.verify(&scene.with_header("typ", typ.clone())).unwrap_err(), VerifyError::TypeWrong, "{typ}");
    }
}

/// R-VERIFY-04
#[test]
fn only_the_own_trust_domain_is_accepted_as_audience() {
    let scene = Scene::new();
    assert_eq!(scene.verify(&scene.issued.token).unwrap().trust_domain().as_str(), TRUST_DOMAIN);
    assert!(scene.verify(&scene.with_claim("aud", json!([TRUST_DOMAIN]))).is_ok(), "an array of one");
    for aud in
        [json!("other.example"), json!("Trust-Domain.example"), json!([TRUST_DOMAIN, "other.example"]), json!([])]
    {
        assert!(scene.verify(&scene.with_claim("aud", aud.clone())).is_err(), "{aud}");
    }
}

/// R-VERIFY-05: by CONTRACT 9 `exp` is exact and 30 seconds are the most that a leeway may be.
#[test]
fn a_token_is_valid_from_iat_to_exp() {
    let scene = Scene::new();
    let (iat, exp) = (scene.issued.iat(), scene.issued.exp());
    let at = |second| scene.verify_at(&scene.issued.token, second);
    assert!(at(exp - 1).is_ok() && at(iat - 30).is_ok());
    assert_eq!(at(exp).unwrap_err(), VerifyError::Expired { expired_at: exp });
    assert_eq!(at(iat - 31).unwrap_err(), VerifyError::NotYetValid);
    let keys = KeySet::parse(scene.jwks().as_bytes()).unwrap();
    let lenient = scene.builder().leeway(Duration::from_secs(30)).build().unwrap();
    let late = |second| lenient.verify_at(&scene.issued.token, &keys, UNIX_EPOCH + Duration::from_secs(second));
    assert!(late(exp + 29).is_ok() && late(exp + 30).is_err());
    assert!(scene.builder().leeway(Duration::from_secs(31)).build().is_err());
}

/// R-VERIFY-05
#[test]
fn not_before_is_honoured() {
    let scene = Scene::new();
    assert!(scene.verify(&scene.with_claim("nbf", json!(now()))).is_ok());
    let early = scene.with_claim("nbf", json!(now() + 600));
    assert_eq!(scene.verify(&early).unwrap_err(), VerifyError::NotYetValid);
}

/// R-VERIFY-05
#[test]
fn required_claims_are_there_with_their_types_and_others_are_ignored() {
    let scene = Scene::new();
    for name in ["iat", "aud", "exp", "txn", "sub", "scope", "req_wl"] {
        for wrong in [Value::Null, json!(true), json!({"x": 1})] {
            let token = scene.with_claim(name, wrong);
            assert_eq!(scene.verify(&token).unwrap_err(), VerifyError::ClaimsInvalid, "{name}");
        }
    }
    assert!(scene.verify(&scene.with_claim("whatever", json!([1, {"x": null}]))).is_ok());
}

/// R-VERIFY-06
#[test]
fn the_issuer_is_compared_where_both_name_one() {
    let scene = Scene::new();
    let token = &scene.issued.token;
    let without = scene.with_claim("iss", Value::Null);
    let ours = scene.builder().issuer(ISSUER).build().unwrap();
    assert!(verify(&ours, token).is_ok() && verify(&ours, &without).is_ok(), "the keys tell");
    let other = scene.builder().issuer("https://other.example").build().unwrap();
    assert_eq!(verify(&other, token).unwrap_err(), VerifyError::IssuerMismatch);
    let strict = scene.builder().issuer(ISSUER).require_issuer(true).build().unwrap();
    assert!(verify(&strict, token).is_ok());
    assert_eq!(verify(&strict, &without).unwrap_err(), VerifyError::IssuerMismatch);
}

/// R-VERIFY-07: what is to be passed on is what came.
#[test]
fn a_verified_token_is_passed_on_byte_for_byte() {
    let scene = Scene::new();
    assert_eq!(scene.verify(&scene.issued.token).unwrap().encoded(), scene.issued.token);
    assert_eq!(scene.verify(&format!("  {} ", scene.issued.token)).unwrap().encoded(), scene.issued.token);
}

/// R-VERIFY-09
#[test]
fn a_token_is_not_accepted_outside_its_trust_domain() {
    let scene = Scene::new();
    let other = Verifier::builder("other.example").jwks_json(scene.jwks()).build().unwrap();
    assert_eq!(verify(&other, &scene.issued.token).unwrap_err(), VerifyError::AudienceMismatch);
}

/// R-VERIFY-10
#[test]
fn what_authorization_needs_is_typed_and_what_is_missing_allows_nothing() {
    let scene = Scene::new();
    let token = scene.verify(&scene.issued.token).unwrap();
    assert_eq!((token.subject(), token.requesting_workload()), ("mailer", "mailer"));
    assert_eq!((token.tctx::<u64>("size"), token.rctx::<&str>("req_ip")), (Some(7), Some("192.0.2.1")));
    assert_eq!((token.tctx::<u64>("limit"), token.tctx::<String>("size")), (None, None));
    assert!(token.require_scope(DELIVER).is_ok());
    assert_eq!(token.require_scope("mailbox.delete").unwrap_err().http_status(), 403);
    assert_eq!(scene.verify(&scene.with_claim("scope", Value::Null)).unwrap_err().http_status(), 401);
    assert_eq!(scene.verify_at(&scene.issued.token, scene.issued.exp()).unwrap_err().http_status(), 401);
}

/// R-VERIFY-11
#[test]
fn a_token_can_be_used_again_unless_single_use_is_configured() {
    let scene = Scene::new();
    let (token, sibling) = (&scene.issued.token, scene.with_claim("scope", json!("mailbox.report")));
    let default = scene.builder().build().unwrap();
    assert!(verify(&default, token).is_ok() && verify(&default, token).is_ok());
    let by_token = scene.builder().single_use(SingleUse::SignedPart).build().unwrap();
    assert!(verify(&by_token, token).is_ok() && verify(&by_token, &sibling).is_ok());
    assert_eq!(verify(&by_token, token).unwrap_err(), VerifyError::Replayed);
    let by_transaction = scene.builder().single_use(SingleUse::Transaction).build().unwrap();
    assert!(verify(&by_transaction, token).is_ok());
    assert_eq!(verify(&by_transaction, &sibling).unwrap_err(), VerifyError::Replayed);
}

/// R-VERIFY-13: a queue; the text of the message's metadata is judged as a header's value would be.
#[test]
fn a_token_from_a_queue_is_redeemed_and_not_accepted_after_its_expiry() {
    let accounts = format!("[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"client_credentials\"]\nlifetime = \"1s\"\n");
    let batch = format!(
        "[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"expired_txn_token\"]\n\
         [purpose.redemption]\nissued_to = [\"accounts\"]\nmax_age = \"1d\"\n"
    );
    let writ = Setup::new().client("accounts", &accounts).client("batch", &batch).start();
    let original = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    let message = BTreeMap::from([("txn-token", original.token.clone())]);
    original.wait_until_expired();
    let (verifier, _) = fetching(&writ);
    let parked = &message["txn-token"];
    assert_eq!(verify(&verifier, parked).unwrap_err(), VerifyError::Expired { expired_at: original.exp() });
    let redeemed = writ.workload("batch").token(&Form::redeem(parked, PURGE)).issued();
    assert_eq!(verify(&verifier, &redeemed.token).unwrap().transaction(), original.txn());
}

/// A verifier as a service of the trust domain configures it.
fn strict(writ: &Writ) -> Verifier {
    let port = writ.site().endpoints().discovery.unwrap().port();
    Verifier::builder(TRUST_DOMAIN)
        .jwks_url(format!("https://localhost:{port}/.well-known/jwks.json"))
        .root_certificate_pem(&writ.site().ca)
        .unwrap()
        .issuer(ISSUER)
        .require_issuer(true)
        .build()
        .unwrap()
}

fn deliver(writ: &Writ) -> Issued {
    writ.workload("mailer").token(&Form::client_credentials(DELIVER)).issued()
}

/// R-VERIFY-02 to R-VERIFY-06
#[test]
fn a_token_verifies_with_the_published_keys() {
    let writ = scene::mailer();
    let issued = deliver(&writ);
    let token = verify(&strict(&writ), &issued.token).unwrap();
    assert_eq!((token.transaction(), token.subject(), token.requesting_workload()), (issued.txn(), "mailer", "mailer"));
    token.require_scope("mailbox.deliver").unwrap();
    token.require_scope("mailbox.report").unwrap_err();
    assert_eq!(token.require_delayed(Duration::ZERO).unwrap_err().reason(), "token_not_delayed");
}

/// CONTRACT 9
#[test]
fn a_redeemed_token_shows_how_long_it_was_delayed() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let redeemed = writ.workload("batch").token(&redeem(&original)).issued();
    let token = verify(&strict(&writ), &redeemed.token).unwrap();
    assert_eq!(token.requesting_workloads(), ["accounts", "batch"]);
    let by_then = token.require_delayed(Duration::ZERO).unwrap();
    assert_eq!((by_then.iat, by_then.exp, by_then.use_number), (original.iat(), original.exp(), 1));
    token.require_delayed(Duration::from_secs(3600)).unwrap_err();
}

/// R-KEYS-04: a verifier with the keys from before a rotation verifies what is signed after it.
#[test]
fn a_rotation_does_not_disturb_verifiers() {
    let writ = Setup::new().client("mailer", scene::MAILER).short_keys(3600).set("tokens.lifetime", "2s").start();
    let verifier = strict(&writ);
    let before = deliver(&writ);
    verify(&verifier, &before.token).unwrap();
    for _ in 0..2 {
        writ.rotate();
        let after = deliver(&writ);
        assert_ne!(after.kid(), before.kid());
        verify(&verifier, &after.token).unwrap();
    }
}

/// A-116, A-141
#[test]
fn tokens_of_a_revoked_key_soon_stop_verifying() {
    let writ = Setup::new()
        .client("mailer", scene::MAILER)
        .set("tokens.jwks_max_age", "1s")
        .set("tokens.max_lifetime", "60s")
        .start();
    let verifier = strict(&writ);
    let issued = deliver(&writ);
    verify(&verifier, &issued.token).unwrap();
    writ.run(&["keys", "revoke", issued.kid()]).exits(0);
    eventually("the verifier learns of it", || verify(&verifier, &issued.token).err());
    verify(&verifier, &deliver(&writ).token).unwrap();
}

/// A-141: cached keys serve while the service is away.
#[test]
fn tokens_verify_while_the_service_is_unreachable() {
    let mut writ = scene::mailer();
    let verifier = strict(&writ);
    let issued = deliver(&writ);
    verify(&verifier, &issued.token).unwrap();
    writ.kill();
    verify(&verifier, &issued.token).unwrap();
}
