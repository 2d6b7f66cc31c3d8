//! The steps of an exchange in one process, without HTTP and TLS, beside the cryptography that they cannot do without.
//!
//! `cargo bench --bench steps` prints the CPU time of each. With the name of a counted step and a number it only runs that
//! step so many times: `tests/instructions.sh` counts the instructions.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::cell::Cell;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey, Signature,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use writ_core::audit::{Audit, TokenDigest};
use writ_core::blocks::Blocks;
use writ_core::claims;
use writ_core::client::PeerCertificate;
use writ_core::endpoint::{IncomingRequest, TokenService, known_key};
use writ_core::exchange_metrics::ExchangeMetrics;
use writ_core::keys::ring::KeyTimes;
use writ_core::keys::seal::SealingKeys;
use writ_core::keys::{KeyRing, Settings, SigningAlgorithm};
use writ_core::ledger::Ledger;
use writ_core::limits::{self, Limits};
use writ_core::policy::Policies;
use writ_core::request::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TXN_TOKEN_TYPE};
use writ_core::subject::issuers::Issuers;
use writ_core::subject::own_token;
use writ_platform::clock::{Clock, Timestamp};
use writ_platform::digest::sha256;
use writ_platform::shares::Shares;
use writ_platform::telemetry::{Format, Log};
use writ_store::Store;
use writ_verifier::Verifier;
use writ_verifier::jwks::KeySet;
use zeroize::Zeroizing;

const SECOND: Duration = Duration::from_secs(1);

/// Repetitions of each step.
const COUNT: u32 = 2_000;

const POLICY: &str = r#"
client_id = "client"
tls_client_auth_san_dns = "client.d.example"

[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials", "txn_token"]
"#;

fn main() {
    let scene = Scene::new();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let crypto = Crypto::new();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(&scene, &crypto),
        [name, times] => counted(times.parse().expect("a number"), &|| match name {
            "issue" => drop(scene.issue()),
            "verify" => scene.verify(),
            "bare-sign" => crypto.sign(),
            "bare-verify" => crypto.verify(),
            _ => panic!("no step is called {name}"),
        }),
        _ => panic!("usage: steps [STEP TIMES]"),
    }
}

/// Only what is called from here is counted; `tests/instructions.sh` knows its name.
#[inline(never)]
fn counted(times: u32, work: &dyn Fn()) {
    for _ in 0..times {
        work();
    }
}

/// The verification of one signature costs more than that of another.
struct Samples<T> {
    all: Vec<T>,
    used: Cell<usize>,
}

impl<T> Samples<T> {
    fn new(make: impl FnMut() -> T) -> Self {
        Self { all: std::iter::repeat_with(make).take(100).collect(), used: Cell::new(0) }
    }

    fn next(&self) -> &T {
        self.used.set(self.used.get() + 1);
        &self.all[self.used.get() % self.all.len()]
    }
}

/// The cryptography alone, with keys that were parsed before.
struct Crypto {
    random: SystemRandom,
    pair: EcdsaKeyPair,
    public: ParsedPublicKey,
    message: [u8; 500],
    signatures: Samples<Signature>,
}

impl Crypto {
    fn new() -> Self {
        let (random, message) = (SystemRandom::new(), [b'x'; 500]);
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let signatures = Samples::new(|| pair.sign(&random, &message).unwrap());
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key()).unwrap();
        Self { random, pair, public, message, signatures }
    }

    fn sign(&self) {
        black_box(self.pair.sign(&self.random, &self.message)).unwrap();
    }

    fn verify(&self) {
        self.public.verify_sig(&self.message, self.signatures.next().as_ref()).unwrap();
    }
}

fn measure(scene: &Scene, crypto: &Crypto) {
    step("sign ES256, nothing else", || crypto.sign());
    step("verify ES256, nothing else", || crypto.verify());
    step("read a client's certificate", || drop(black_box(PeerCertificate::parse(&scene.certificate_der))));
    step("digest a token for the audit line", || {
        black_box(TokenDigest::new(sha256(scene.tokens.next().as_bytes())));
    });
    step("verify one's own Txn-Token", || scene.verify_own());
    step("verify in the verifier crate", || scene.verify());
    step("parse, decide, sign, audit: client_credentials", || drop(scene.issue()));
    step("parse, verify, decide, sign, audit: replacement", || scene.replace());
}

fn step(name: &str, work: impl Fn()) {
    for _ in 0..COUNT / 10 {
        work();
    }
    let before = cpu_time();
    for _ in 0..COUNT {
        work();
    }
    let each = cpu_time().saturating_sub(before) / COUNT;
    println!("{name:50} {:8.2} µs", each.as_secs_f64() * 1e6);
}

/// Of this thread; the log has one of its own.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

/// A service without listeners, and tokens that it has issued.
struct Scene {
    runtime: Runtime,
    service: Arc<TokenService>,
    certificate: Arc<PeerCertificate>,
    certificate_der: Vec<u8>,
    verifier: Verifier,
    keys: KeySet,
    tokens: Samples<String>,
    _in_flight: mpsc::Receiver<Infallible>,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (alive, in_flight) = mpsc::channel(1);
        let service = Arc::new(runtime.block_on(service(&folder, alive)));
        let certificate_der = certificate();
        let jwks = service.keys.jwks().body.clone();
        let mut scene = Self {
            runtime,
            service,
            certificate: Arc::new(PeerCertificate::parse(&certificate_der).unwrap()),
            certificate_der,
            verifier: Verifier::builder("d.example").jwks_json(jwks.as_str()).build().unwrap(),
            keys: KeySet::parse(jwks.as_bytes()).unwrap(),
            tokens: Samples { all: Vec::new(), used: Cell::new(0) },
            _in_flight: in_flight,
            _folder: folder,
        };
        scene.tokens = Samples::new(|| scene.issue());
        scene
    }

    fn exchange(&self, body: &str) -> String {
        let request = IncomingRequest {
            certificate: Arc::clone(&self.certificate),
            has_authorization: false,
            body: body.as_bytes().to_vec(),
            request_id: "r".into(),
            trace_id: None,
            deadline: Instant::now() + 10 * SECOND,
            place: Shares::new(1).take(None).unwrap(),
        };
        let issued = self.runtime.block_on(self.service.exchange(request)).unwrap();
        issued.token().as_str().to_owned()
    }

    fn issue(&self) -> String {
        self.exchange(&format!(
            "grant_type={CLIENT_CREDENTIALS}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example\
             &scope=mailbox.deliver"
        ))
    }

    fn replace(&self) {
        self.exchange(&format!(
            "grant_type={TOKEN_EXCHANGE}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example\
             &scope=mailbox.deliver&subject_token={}&subject_token_type={TXN_TOKEN_TYPE}",
            self.tokens.next()
        ));
    }

    fn verify(&self) {
        self.verifier.verify_at(self.tokens.next(), &self.keys, SystemTime::now()).unwrap();
    }

    fn verify_own(&self) {
        let find = |kid: &str| known_key(self.service.keys.find(kid));
        own_token::verify_live(self.tokens.next(), &self.service.settings.trust_domain, find, Timestamp::now())
            .unwrap();
    }
}

async fn service(folder: &TempDir, in_flight: mpsc::Sender<Infallible>) -> TokenService {
    let store = Store::open(&writ_store::Settings::Sled { path: folder.path().join("data") }).await.unwrap();
    TokenService {
        settings: claims::Settings {
            trust_domain: "d.example".parse().unwrap(),
            issuer: "https://tts.d.example".into(),
            include_iss: true,
            max_size: 4096,
            max_replacements: 4,
        },
        policies: Arc::new(policies(folder)),
        pdp: None,
        issuers: Arc::new(Issuers::new(Vec::new(), Duration::ZERO).unwrap()),
        keys: Arc::new(keys(&store).await),
        ledger: Arc::new(Ledger::open(store.clone()).await.unwrap()),
        blocks: Arc::new(Blocks::open(store.clone()).await.unwrap()),
        // Where rustix reads the clock, valgrind ends the process: the kernel tells it of a vDSO that is not mapped.
        clock: Arc::new(Clock::stopped_at(Timestamp::now())),
        limits: Arc::new(Limits::new(limits::Settings { requests_per_second_per_client: None })),
        audit: Audit::new(Log::start(Format::Json, std::io::sink())),
        metrics: ExchangeMetrics::default(),
        in_flight,
    }
}

fn policies(folder: &TempDir) -> Policies {
    let directory = folder.path().join("policies");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("client.toml"), POLICY).unwrap();
    let settings = writ::config::policy::Settings {
        directory,
        default_lifetime: 300 * SECOND,
        max_lifetime: 300 * SECOND,
        retention: 86_400 * SECOND,
        outside_sources: Vec::new(),
        introspecting_issuers: Vec::new(),
        pdp: false,
    };
    Policies::new(writ::config::policy::folder::load(&settings).unwrap().0)
}

async fn keys(store: &Store) -> KeyRing {
    let settings = Settings {
        algorithm: SigningAlgorithm::ES256,
        times: KeyTimes::new(86_400 * SECOND, 600 * SECOND, 300 * SECOND, 86_400 * SECOND).unwrap(),
        sealing_key: std::path::PathBuf::new(),
        previous_sealing_keys: Vec::new(),
    };
    let sealing = SealingKeys::new(&Zeroizing::new([1; 32]), &[]).unwrap();
    let domain = "d.example".parse().unwrap();
    KeyRing::open(store.clone(), &settings, sealing, &domain, Timestamp::now()).await.unwrap().0
}

fn certificate() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName("client.d.example".try_into().unwrap())];
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Example CA");
    let issuer = rcgen::Issuer::new(ca, KeyPair::generate().unwrap());
    params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().to_vec()
}
