//! The flow of an exchange, in one process and by a clock that the tests set: the order of refusals, and what is on record
//! and in the log before an answer leaves.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use futures_util::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use url::form_urlencoded;
use writ_verifier::Verifier;
use writ_verifier::jwks::KeySet;
use zeroize::Zeroizing;

use writ::config::policy::folder;
use writ_core::audit::{Audit, TokenDigest};
use writ_core::blocks::Blocks;
use writ_core::claims;
use writ_core::client::PeerCertificate;
use writ_core::endpoint::{IncomingRequest, TokenService, known_key};
use writ_core::exchange::Issued;
use writ_core::exchange_metrics::ExchangeMetrics;
use writ_core::keys::KeyRing;
use writ_core::keys::ring::KeyTimes;
use writ_core::keys::seal::SealingKeys;
use writ_core::keys::{Settings, SigningAlgorithm};
use writ_core::ledger::Ledger;
use writ_core::limits;
use writ_core::limits::Limits;
use writ_core::policy::{Policies, PolicySet};
use writ_core::refusal::{Reason, Refusal};
use writ_core::request::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TXN_TOKEN_TYPE};
use writ_core::subject::issuers::Issuers;
use writ_core::subject::own_token;
use writ_platform::clock::{Clock, Timestamp};
use writ_platform::shares::Shares;
use writ_platform::telemetry::sink::Sink;
use writ_platform::telemetry::{Format, Log};
use writ_store::Store;

const SECOND: Duration = Duration::from_secs(1);

const POLICIES: [(&str, &str); 2] = [
    (
        "accounts",
        r#"[[purpose]]
        scope = "account.purge"
        lifetime = "1s"
        accept = ["client_credentials"]
        [[purpose]]
        scope = "mailbox.deliver"
        accept = ["client_credentials"]"#,
    ),
    (
        "job",
        r#"[[purpose]]
        scope = "account.purge"
        accept = ["expired_txn_token"]
        redemption = { issued_to = ["accounts"], max_age = "1h" }"#,
    ),
];

/// When each scene begins.
const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);

struct Scene {
    service: Arc<TokenService>,
    in_flight: mpsc::Receiver<std::convert::Infallible>,
    store: Store,
    log: Sink,
    _folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::with(&POLICIES, 4096).await
    }

    async fn with(clients: &[(&str, &str)], max_size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let store = Store::open(&writ_store::Settings::Sled { path }).await.unwrap();
        let log = Sink::default();
        let (alive, in_flight) = mpsc::channel(1);
        let service = TokenService {
            settings: claims::Settings {
                trust_domain: "d.example".parse().unwrap(),
                issuer: "https://tts.d.example".into(),
                include_iss: true,
                max_size,
                max_replacements: 4,
            },
            policies: Arc::new(Policies::new(policies(&folder, clients))),
            pdp: None,
            issuers: Arc::new(Issuers::new(Vec::new(), Duration::ZERO).unwrap()),
            keys: Arc::new(keys(&store).await),
            ledger: Arc::new(Ledger::open(store.clone()).await.unwrap()),
            blocks: Arc::new(Blocks::open(store.clone()).await.unwrap()),
            clock: Arc::new(Clock::stopped_at(NOW)),
            limits: Arc::new(Limits::new(limits::Settings { requests_per_second_per_client: None })),
            audit: Audit::new(Log::start(Format::Json, log.clone())),
            metrics: ExchangeMetrics::default(),
            in_flight: alive,
        };
        Self { service: Arc::new(service), in_flight, store, log, _folder: folder }
    }

    async fn ask(&self, client: &str, body: &str) -> Result<Issued, Refusal> {
        self.service.exchange(request(client, body, 10 * SECOND)).await
    }

    async fn reason(&self, client: &str, body: &str) -> &'static str {
        self.ask(client, body).await.expect_err("refused").reason().as_str()
    }

    /// Sets the clock to the expiry of `issued`.
    fn expire(&self, issued: &Issued) {
        self.service.clock.set(issued.expires_at());
    }

    /// A token that has expired, and can be redeemed.
    async fn expired(&self) -> Issued {
        let issued = self.ask("accounts", &credentials("account.purge")).await.unwrap();
        self.expire(&issued);
        issued
    }

    fn last_line(&self) -> Value {
        self.log.lines().pop().expect("a line")
    }
}

fn policies(folder: &TempDir, clients: &[(&str, &str)]) -> PolicySet {
    let directory = folder.path().join("policies");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("any.json"), "{}").unwrap();
    for (client, purposes) in clients {
        let head = format!("client_id = \"{client}\"\ntls_client_auth_san_dns = \"{client}.d.example\"\n");
        std::fs::write(directory.join(format!("{client}.toml")), head + purposes).unwrap();
    }
    let settings = writ::config::policy::Settings {
        directory,
        default_lifetime: 60 * SECOND,
        max_lifetime: 300 * SECOND,
        retention: 86_400 * SECOND,
        outside_sources: Vec::new(),
        introspecting_issuers: Vec::new(),
        pdp: false,
    };
    folder::load(&settings).unwrap().0
}

async fn keys(store: &Store) -> KeyRing {
    let settings = Settings {
        algorithm: SigningAlgorithm::ES256,
        times: KeyTimes::new(1000 * SECOND, 10 * SECOND, 300 * SECOND, 86_400 * SECOND).unwrap(),
        sealing_key: std::path::PathBuf::new(),
        previous_sealing_keys: Vec::new(),
    };
    let sealing = SealingKeys::new(&Zeroizing::new([1; 32]), &[]).unwrap();
    let domain = "d.example".parse().unwrap();
    KeyRing::open(store.clone(), &settings, sealing, &domain, NOW).await.unwrap().0
}

fn request(client: &str, body: &str, time: Duration) -> IncomingRequest {
    IncomingRequest {
        certificate: Arc::new(certificate(client)),
        has_authorization: false,
        body: body.as_bytes().to_vec(),
        request_id: "r".into(),
        trace_id: None,
        deadline: Instant::now() + time,
        place: Shares::new(1).take(None).unwrap(),
    }
}

fn certificate(client: &str) -> PeerCertificate {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName(format!("{client}.d.example").try_into().unwrap())];
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Example CA");
    let issuer = Issuer::new(ca, KeyPair::generate().unwrap());
    PeerCertificate::parse(params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der()).unwrap()
}

fn credentials(scope: &str) -> String {
    format!("grant_type={CLIENT_CREDENTIALS}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}")
}

fn redeeming(token: &Issued) -> String {
    exchanging(token, "account.purge")
}

/// A replacement, or a redemption if the token has expired.
fn exchanging(token: &Issued, scope: &str) -> String {
    format!(
        "grant_type={TOKEN_EXCHANGE}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}\
         &subject_token={}&subject_token_type={TXN_TOKEN_TYPE}",
        token.token().as_str()
    )
}

/// Values as large, deep and long as readers take them, and a little more.
fn any_value() -> impl Strategy<Value = String> {
    let items = |count: usize, item: &str| vec![item; count].join(",");
    let members = |count: usize| {
        let all: Vec<_> = (0..count).map(|number| format!("\"k{number}\":0")).collect();
        format!("{{{}}}", all.join(","))
    };
    prop_oneof![
        (11..=17_usize).prop_map(|levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels))),
        (10..=16_usize).prop_map(|levels| format!("{}1e-999{}", "{\"k\":".repeat(levels), "}".repeat(levels))),
        (254..=258_usize).prop_map(move |count| format!("[{}]", items(count, "1"))),
        (254..=258_usize).prop_map(members),
        select(vec![0_usize, 300, 5_000, 10_000, 10_400, 10_600, 10_700, 12_000])
            .prop_map(|length| format!("\"{}\"", "x".repeat(length))),
        (10_300..10_700_usize).prop_map(|length| format!("\"{}\"", "ä".repeat(length / 2))),
        select(vec!["1e308", "1e309", "1e-400", "-0", "0.10", "123456789012345678901", "1e-99999999999999999999"])
            .prop_map(str::to_owned),
        select(vec!["\"\\u0000\\ud83d\\ude00\"", "{\"\":{\"$serde_json::private::RawValue\":\"[\"}}", "null"])
            .prop_map(str::to_owned),
    ]
}

/// An object with this value, and so many members beside it.
fn any_object() -> impl Strategy<Value = String> {
    let others = prop_oneof![3 => 0..3_usize, 1 => 252..=257_usize];
    (any_value(), others).prop_map(|(value, others)| {
        let others: Vec<_> = (1..=others).map(|number| format!(",\"m{number}\":0")).collect();
        format!("{{\"m0\":{value}{}}}", others.concat())
    })
}

/// Policies by which `keeper` puts anything into tokens, `relay` replaces them and `job` redeems them.
fn policies_for_anything() -> [(&'static str, String); 3] {
    let names: Vec<_> = (0..260).map(|number| format!("\"m{number}\"")).collect();
    let purpose = |scope: &str, accept: &str, more: &str| {
        format!(
            "[[purpose]]\nscope = \"{scope}\"\nlifetime = \"2s\"\naccept = [\"{accept}\"]\nsubjects = [\"*\"]\n\
             request_details = \"any.json\"\ntctx.copy = [{names}]\nrctx.copy = [{names}]\n{more}\n",
            names = names.join(",")
        )
    };
    let keeper = purpose("file.delete", "client_credentials", "")
        + &purpose("file.erase", "unsigned_json", "tctx.subject = { who = \"profile\" }");
    let relay = purpose("file.delete", "txn_token", "") + &purpose("file.erase", "txn_token", "");
    let job = ["file.delete", "file.erase"].map(|scope| {
        format!(
            "[[purpose]]\nscope = \"{scope}\"\naccept = [\"expired_txn_token\"]\n\
             redemption = {{ issued_to = [\"keeper\", \"relay\"], max_age = \"1h\", max_uses = 2 }}\n"
        )
    });
    [("keeper", keeper), ("relay", relay), ("job", job.concat())]
}

/// A request of `keeper` with its purpose: with a `profile`, for a subject that it asserts.
fn asking_for(details: &str, context: Option<&str>, profile: Option<&str>) -> (&'static str, String) {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let context = context.map(|context| format!("&request_context={}", encoded(context)));
    let more = format!("&request_details={}{}", encoded(details), context.unwrap_or_default());
    let Some(profile) = profile else { return ("file.delete", credentials("file.delete") + &more) };
    let subject = encoded(&format!("{{\"sub\":\"u-1\",\"profile\":{profile}}}"));
    let kind = "urn:ietf:params:oauth:token-type:unsigned_json";
    let body = format!(
        "grant_type={TOKEN_EXCHANGE}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example\
         &scope=file.erase&subject_token={subject}&subject_token_type={kind}{more}"
    );
    ("file.erase", body)
}

/// R-REQ-12, R-REQ-16: whatever is sent, it is refused before anything is recorded, or makes a token that verifiers
/// read, that can be replaced, and that can be redeemed; and so can what replaced it.
#[tokio::test]
async fn a_token_is_issued_only_if_it_can_be_read_and_redeemed() {
    const CASES: usize = 500;
    let policies = policies_for_anything();
    let clients = policies.each_ref().map(|(client, policy)| (*client, policy.as_str()));
    let scene = Scene::with(&clients, claims::LARGEST as usize).await;
    let keys = scene.service.keys.jwks().body.clone();
    let verifier = Verifier::builder("d.example").jwks_json(keys.as_str()).build().unwrap();
    let keys = KeySet::parse(keys.as_bytes()).unwrap();
    let verify = |issued: &Issued| {
        let now = UNIX_EPOCH + Duration::from_secs(scene.service.clock.now().epoch());
        verifier.verify_at(issued.token().as_str(), &keys, now)
    };
    let mut runner = TestRunner::deterministic();
    let case = (any_object(), proptest::option::of(any_object()), proptest::option::of(any_value()));
    let (mut kept, mut refused) = (Vec::new(), std::collections::BTreeMap::<_, usize>::new());
    for _ in 0..CASES {
        let (details, context, profile) = case.new_tree(&mut runner).unwrap().current();
        let (scope, body) = asking_for(&details, context.as_deref(), profile.as_deref());
        match scene.ask("keeper", &body).await {
            Err(refusal) => *refused.entry(refusal.reason().as_str()).or_default() += 1,
            Ok(issued) => {
                assert!(issued.redeemable_until().is_some());
                verify(&issued).unwrap_or_else(|error| panic!("{details}: {error}"));
                match scene.ask("relay", &exchanging(&issued, scope)).await {
                    Ok(replaced) => {
                        verify(&replaced).unwrap();
                        kept.push((scope, replaced));
                    }
                    // It became longer by the chain.
                    Err(refusal) => assert_eq!(refusal.reason(), Reason::TokenTooLarge, "{details}"),
                }
                kept.push((scope, issued));
            }
        }
    }
    let (_, last) = kept.iter().max_by_key(|(_, issued)| issued.expires_at()).unwrap();
    scene.expire(last);
    for (scope, issued) in &kept {
        let redeemed = scene.ask("job", &exchanging(issued, scope)).await;
        let redeemed = redeemed.unwrap_or_else(|refusal| panic!("{refusal:?}: {:?}", issued.token().as_str().len()));
        verify(&redeemed).unwrap();
        let find = |kid: &str| known_key(scene.service.keys.find(kid));
        let domain = &scene.service.settings.trust_domain;
        own_token::verify_live(redeemed.token().as_str(), domain, find, scene.service.clock.now()).unwrap();
    }
    let refusals = ["details_rejected", "parameter_malformed", "subject_token_claims_invalid", "token_too_large"];
    println!("{CASES} requests: {} tokens, all redeemed; refused: {refused:?}", kept.len());
    let is_expected = |reason: &&str| refusals.contains(reason) || *reason == "subject_token_malformed";
    assert!(refused.keys().all(is_expected), "{refused:?}");
    assert!(kept.len() > 50 && refusals.iter().all(|reason| refused.contains_key(reason)), "{refused:?}");
}

/// CONTRACT 3.3, 10
#[tokio::test]
async fn a_token_that_leaves_is_in_the_log() {
    let scene = Scene::new().await;
    let issued = scene.ask("accounts", &credentials("account.purge")).await.unwrap();
    assert_eq!(issued.redeemable_until(), Some(issued.expires_at() + 3600 * SECOND));
    let line = scene.last_line();
    assert_eq!(line["event"], "token_issued");
    assert_eq!((&line["client"], &line["source"]), (&"accounts".into(), &"client_credentials".into()));
    assert_eq!(line["token_sha256"], serde_json::json!(TokenDigest::new(issued.token().sha256())));
    assert_eq!(line["exp"], issued.expires_at().epoch());
    assert!(line.get("reason").is_none() && line.get("retry").is_none() && line.get("key_state").is_none());
    let plain = scene.ask("accounts", &credentials("mailbox.deliver")).await.unwrap();
    assert_eq!(plain.redeemable_until(), None, "no client can redeem it");
}

/// CONTRACT 10
#[tokio::test]
async fn a_redemption_records_its_use_and_its_repetition() {
    let scene = Scene::new().await;
    let original = scene.expired().await;
    let first = scene.ask("job", &redeeming(&original)).await.unwrap();
    let line = scene.last_line();
    assert_eq!((&line["use"], &line["key_state"]), (&1.into(), &"current".into()));
    assert!(line["delayed_by"].is_u64() && line.get("retry").is_none());
    assert_eq!(first.redeemable_until(), None, "a redeemed token is never redeemed");
    scene.ask("job", &redeeming(&original)).await.unwrap();
    assert_eq!((&scene.last_line()["use"], &scene.last_line()["retry"]), (&1.into(), &true.into()));
    assert_eq!(scene.reason("job", &redeeming(&first)).await, "redemption_not_allowed");
    assert_eq!(scene.log.lines().len(), 4);
}

/// A-132, A-101: a use that was counted is not lost with the line that could not be written.
#[tokio::test]
async fn what_cannot_be_recorded_does_not_leave_and_is_free_to_repeat() {
    let scene = Scene::new().await;
    let original = scene.expired().await;
    scene.log.fill(true);
    assert_eq!(scene.reason("job", &redeeming(&original)).await, "audit_unavailable");
    assert_eq!(scene.reason("accounts", &credentials("mailbox.deliver")).await, "audit_unavailable");
    scene.log.fill(false);
    // The service notices within a second that the log works again.
    while scene.ask("job", &redeeming(&original)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((&scene.last_line()["use"], &scene.last_line()["retry"]), (&1.into(), &true.into()));
}

/// A-102, A-123
#[tokio::test]
async fn without_a_store_only_what_needs_none_is_issued() {
    let scene = Scene::new().await;
    let original = scene.expired().await;
    scene.store.clone().close().await;
    assert_eq!(scene.reason("job", &redeeming(&original)).await, "store_unavailable");
    assert_eq!(scene.reason("accounts", &credentials("account.purge")).await, "store_unavailable");
    scene.ask("accounts", &credentials("mailbox.deliver")).await.unwrap();
}

#[tokio::test]
async fn a_request_whose_time_is_over_is_not_begun() {
    let scene = Scene::new().await;
    let late = scene.service.exchange(request("accounts", &credentials("account.purge"), Duration::ZERO)).await;
    assert_eq!(late.expect_err("refused").reason().as_str(), "request_timeout");
    assert_eq!(scene.last_line()["reason"], "request_timeout");
    assert_eq!(scene.log.lines().len(), 1);
}

/// A-038
#[tokio::test]
async fn work_goes_on_when_its_client_goes_away() {
    let mut scene = Scene::new().await;
    let asking = scene.service.exchange(request("accounts", &credentials("account.purge"), 10 * SECOND));
    assert!(asking.now_or_never().is_none(), "it is not done at once");
    drop(scene.service);
    assert!(scene.in_flight.recv().await.is_none());
    assert_eq!(scene.log.events(), ["token_issued"]);
}

/// CONTRACT 3.6: the first hit wins, and each answer has one line.
#[tokio::test]
async fn refusals_come_in_order_and_each_has_one_line() {
    let scene = Scene::new().await;
    let good = credentials("mailbox.deliver");
    let cases = [
        ("stranger", "%".to_owned(), "client_unknown"),
        ("accounts", "%".to_owned(), "parameter_malformed"),
        ("accounts", format!("{good}&client_id=job&client_secret=x"), "client_id_mismatch"),
        ("accounts", format!("{good}&client_secret=x&grant_type="), "parameter_repeated"),
        ("accounts", format!("{good}&client_secret=x&resource=x"), "parameter_unsupported"),
        ("accounts", format!("{good}&resource=x"), "resource_unsupported"),
        ("accounts", credentials("account.delete"), "purpose_not_allowed"),
        ("job", credentials("account.purge"), "source_not_allowed"),
    ];
    for (number, (client, body, reason)) in cases.into_iter().enumerate() {
        assert_eq!(scene.reason(client, &body).await, reason);
        assert_eq!(scene.log.lines().len(), number + 1, "{reason}");
        assert_eq!(
            (&scene.last_line()["event"], &scene.last_line()["reason"]),
            (&"token_refused".into(), &reason.into())
        );
    }
    assert!(scene.log.lines()[0].get("client").is_none(), "an unknown client has no name");
}
