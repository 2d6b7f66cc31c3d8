//! What a stranger's chain may cost, and that honest chains of every shape still pass.

use rcgen::{
    CertificateParams, CustomExtension, GeneralSubtree, Issuer, KeyPair, NameConstraints, PublicKeyData, SanType,
    SigningKey,
};

use super::*;
use crate::server::tls::files::read_clients;
use crate::server::tls::path::{MAX_SIGNATURES, Search};

/// What one chain may cost in an optimised build. Tests are not optimised.
const CPU_MS: f64 = 5.0 * if cfg!(debug_assertions) { 3.0 } else { 1.0 };

/// A chain of a kind, leaf first.
struct Hostile {
    kind: String,
    chain: Vec<CertificateDer<'static>>,
}

/// Milliseconds that this thread has computed for.
fn cpu_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (std::time::Duration::from_secs(u64::try_from(time.tv_sec).unwrap())
        + std::time::Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap()))
    .as_secs_f64()
        * 1000.0
}

fn certificate(
    params: &CertificateParams,
    key: &impl PublicKeyData,
    issuer: &Issuer<'_, impl SigningKey>,
) -> CertificateDer<'static> {
    params.signed_by(key, issuer).unwrap().der().clone()
}

/// A made-up RSA key of any size and exponent, and a forged signature by it.
struct PretendedRsa(Vec<u8>, usize);

impl PretendedRsa {
    fn new(modulus: usize, exponent: usize) -> Self {
        let integer = |length: usize| {
            let mut bytes = vec![0x02, 0x82, 0, 0, 0];
            let octets = u16::try_from(length + 1).unwrap().to_be_bytes();
            bytes[2..4].copy_from_slice(&octets);
            bytes.extend(std::iter::repeat_n(0xff, length));
            bytes
        };
        let content = [integer(modulus), integer(exponent)].concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        Self([&[0x30, 0x82][..], &length, &content].concat(), modulus)
    }
}

impl PublicKeyData for PretendedRsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl SigningKey for PretendedRsa {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![0x55; self.1])
    }
}

const KEYS: [&rcgen::SignatureAlgorithm; 4] = [
    &rcgen::PKCS_ECDSA_P256_SHA256,
    &rcgen::PKCS_ECDSA_P384_SHA384,
    &rcgen::PKCS_ECDSA_P521_SHA512,
    &rcgen::PKCS_ED25519,
];

fn ca_params(name: &str, with_key_id: bool) -> CertificateParams {
    let mut params = pki::ca_params(name);
    params.use_authority_key_identifier_extension = with_key_id;
    params
}

/// So many CAs of these names in turn, each signed by the last, each with a key of its own; and a leaf.
fn ring(
    names: &[&str],
    count: usize,
    algorithm: &'static rcgen::SignatureAlgorithm,
    with_key_id: bool,
) -> Vec<CertificateDer<'static>> {
    let key = || KeyPair::generate_for(algorithm).unwrap();
    let name = |index: usize| names[index % names.len()];
    let mut issuer = Issuer::new(ca_params(name(0), with_key_id), key());
    let mut chain = Vec::new();
    for index in 1..=count {
        let (params, own) = (ca_params(name(index), with_key_id), key());
        chain.push(certificate(&params, &own, &issuer));
        issuer = Issuer::new(params, own);
    }
    chain.push(certificate(&CertificateParams::new(vec!["nobody.example".to_owned()]).unwrap(), &key(), &issuer));
    chain.reverse();
    chain
}

/// The chains of unknown clients, and of a client with an intermediate CA that the service trusts.
fn hostile(root: &Ca) -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add = |kind: String, chain| all.push(Hostile { kind, chain });
    for algorithm in KEYS {
        for count in [1, 3, 6, 8, 9, 10, 20, 40] {
            for with_key_id in [false, true] {
                for (kind, names) in [
                    ("one name", &["LOOP"][..]),
                    ("the name of our CA", &["ca"]),
                    ("two names in turn", &["LOOP", "ca"]),
                    ("three names in turn", &["A", "ca", "B"]),
                    ("many names", &["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K"]),
                ] {
                    let kind = format!("{kind} × {count}, {algorithm:?}, key ids {with_key_id}");
                    add(kind, ring(names, count, algorithm, with_key_id));
                }
            }
        }
    }
    for (modulus, exponent) in [(256, 3), (512, 5), (1024, 8), (1024, 512), (2048, 2048), (4096, 3)] {
        let mut issuer = Issuer::new(ca_params("ca", false), PretendedRsa::new(modulus, exponent));
        let mut chain = Vec::new();
        for _ in 0..6 {
            let (params, key) = (ca_params("ca", false), PretendedRsa::new(modulus, exponent));
            chain.push(certificate(&params, &key, &issuer));
            issuer = Issuer::new(params, key);
        }
        let leaf = CertificateParams::new(vec!["nobody.example".to_owned()]).unwrap();
        chain.push(certificate(&leaf, &PretendedRsa::new(modulus, exponent), &issuer));
        chain.reverse();
        add(format!("RSA of {modulus} octets, exponent of {exponent}"), chain);
    }
    let leaf = ring(&["ca"], 1, KEYS[0], false);
    add("one certificate many times".to_owned(), [&leaf[..1], &vec![leaf[1].clone(); 9]].concat());
    // An attacker with a trusted intermediate CA can make every signature valid.
    let insider = root.intermediate("LOOP", |_| ());
    let mut loops = vec![insider.der.clone()];
    let mut issuers = vec![insider.issuer];
    for index in 0..8 {
        let (params, key) = (ca_params("LOOP", false), KeyPair::generate_for(KEYS[2]).unwrap());
        loops.push(certificate(&params, &key, &issuers[index]));
        issuers.push(Issuer::new(params, key));
    }
    let end = certificate(&named(1), &KeyPair::generate().unwrap(), issuers.last().unwrap());
    loops.reverse();
    add("an insider's loop".to_owned(), [vec![end], loops].concat());
    for (names, constraints) in [(200, 200), (250, 600), (1000, 1), (2000, 2000)] {
        let team = root.intermediate("team", |params| {
            let subtree = |index| GeneralSubtree::DnsName(format!("{index}.example"));
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: (0..constraints).map(subtree).collect(),
                excluded_subtrees: vec![],
            });
        });
        let end = certificate(&named(names), &KeyPair::generate().unwrap(), &team.issuer);
        add(format!("{names} names under {constraints} constraints"), vec![end, team.der]);
    }
    let padded = |size| {
        root.leaf("client", |params| {
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0; size]));
        })
    };
    let odd = |count: u64, with: &dyn Fn(&mut CertificateParams, u64)| {
        root.leaf("client", |params| (0..count).for_each(|index| with(params, index)))
    };
    for count in [100, 1000] {
        let subject = |params: &mut CertificateParams, index| {
            params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, index]), "x");
        };
        let extension = |params: &mut CertificateParams, index| {
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, index], vec![5, 0]));
        };
        add(format!("a subject of {count} attributes"), vec![odd(count, &subject).der]);
        add(format!("{count} extensions"), vec![odd(count, &extension).der]);
    }
    for size in [1000, 30_000, 60_000] {
        add(format!("an extension of {size} octets"), vec![padded(size).der]);
    }
    all
}

fn named(names: usize) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        (0..names).map(|index| SanType::DnsName(format!("x.{index}.example").try_into().unwrap())).collect();
    params
}

/// The bound on what a stranger costs: signatures are counted, and the time that a thread computes is bounded too.
#[test]
fn no_chain_costs_much() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let settings = pki::settings(folder.path(), &ca);
    // A CA that was given a new key twice: every signature has to be tried with three keys.
    std::fs::write(
        &settings.client_ca[0].file,
        [&ca.pem, &Ca::new("ca").pem, &Ca::new("ca").pem].map(String::as_str).concat(),
    )
    .unwrap();
    let trust = Trust::load(settings).unwrap();
    let clients = trust.clients.load();
    let chains = hostile(&ca);
    let (mut refused, mut worst) = (0, (0.0, String::new()));
    let mut signatures = 0;
    for Hostile { kind, chain } in &chains {
        // The best of three: what else the machine does must not count.
        let took = (0..3).map(|_| {
            let before = cpu_ms();
            let outcome = verify_chain(&trust, chain);
            (cpu_ms() - before, outcome.is_err())
        });
        let (took, is_refused) = took.min_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
        assert!(took <= CPU_MS, "{kind}: {took:.1} ms of CPU");
        refused += usize::from(is_refused);
        if took > worst.0 {
            worst = (took, kind.clone());
        }
        if let Ok(mut search) = Search::new(chain, &clients.verifier.anchors) {
            let paths = search.paths().map_or(0, |paths| paths.len());
            assert!(search.signatures <= MAX_SIGNATURES && paths <= 8, "{kind}");
            signatures = signatures.max(search.signatures);
        }
    }
    println!(
        "{} chains, {refused} refused; at most {signatures} signatures, {:.2} ms ({})",
        chains.len(),
        worst.0,
        worst.1
    );
    assert!(chains.len() > 300 && refused > 300);
}

/// Nothing that is changed in a chain, or cut off it, is overlooked or makes the service fall over.
#[test]
fn no_octet_of_a_chain_can_be_changed() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(pki::settings(folder.path(), &ca)).unwrap();
    let team = ca.intermediate("team", |_| ());
    let chain = [team.client(1).der, team.der.clone()];
    assert_eq!(verify_chain(&trust, &chain), Ok(()));
    let mut tried = 0;
    for (index, certificate) in chain.iter().enumerate() {
        for at in 0..certificate.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut changed = certificate.to_vec();
                changed[at] ^= change;
                let mut hostile = chain.clone();
                hostile[index] = changed.into();
                assert!(verify_chain(&trust, &hostile).is_err(), "octet {at} of certificate {index}");
                tried += 1;
            }
            let mut hostile = chain.clone();
            hostile[index] = certificate[..at].to_vec().into();
            assert!(verify_chain(&trust, &hostile).is_err(), "{at} octets of certificate {index}");
        }
    }
    assert!(tried > 1000);
}

/// Every honest shape: straight, with the root sent along, cross-signed, out of order, with what is of no use.
#[test]
fn honest_chains_pass() {
    let (folder, root, other) = (folder(), Ca::new("root"), Ca::new("other"));
    let trust = Trust::load(pki::settings(folder.path(), &root)).unwrap();
    let team = root.intermediate("team", |_| ());
    let below = team.intermediate("below", |_| ());
    let stranger = Ca::new("stranger");
    let client = |ca: &Ca| ca.client(1).der;
    // Two certificates of one name and key: one under a trusted root, one under another root.
    let crossed = team.cross_signed_by(&other);
    // The CA was given a new key; its old one answers for it.
    let renewed = root.intermediate("root", |_| ());
    let of_renewed = renewed.intermediate("team", |_| ());
    for (shape, chain) in [
        ("straight", vec![client(&root)]),
        ("one intermediate", vec![client(&team), team.der.clone()]),
        ("two intermediates", vec![client(&below), below.der.clone(), team.der.clone()]),
        ("the root too", vec![client(&team), team.der.clone(), root.der.clone()]),
        ("out of order", vec![client(&below), root.der.clone(), team.der.clone(), below.der.clone()]),
        ("twice the same", vec![client(&team), team.der.clone(), team.der.clone()]),
        ("cross-signed", vec![client(&team), crossed.clone(), team.der.clone()]),
        ("cross-signed, other order", vec![client(&team), team.der.clone(), crossed.clone(), other.der.clone()]),
        ("below a cross-signed one", vec![client(&below), below.der.clone(), crossed.clone(), team.der.clone()]),
        ("what is of no use", vec![client(&team), stranger.der.clone(), other.der.clone(), team.der.clone()]),
        ("what cannot be read", vec![client(&team), vec![0x30, 0x03, 2, 1, 1].into(), team.der.clone()]),
        ("a CA with a new key", vec![client(&renewed), renewed.der.clone()]),
        ("two of one name in a row", vec![client(&of_renewed), of_renewed.der.clone(), renewed.der.clone()]),
    ] {
        assert_eq!(verify_chain(&trust, &chain), Ok(()), "{shape}");
    }
    let mut deep = vec![root.intermediate("1", |_| ())];
    for depth in 2..=6 {
        deep.push(deep[depth - 2].intermediate(&depth.to_string(), |_| ()));
    }
    let mut chain: Vec<_> = deep.iter().rev().map(|ca| ca.der.clone()).collect();
    chain.insert(0, client(&deep[5]));
    chain.push(root.der.clone());
    assert_eq!(verify_chain(&trust, &chain), Ok(()), "six intermediates and the root");
}

/// A CA that was renewed with its old key is two certificates of one name and key; and one of them has expired.
#[test]
fn any_of_two_certificates_of_a_ca_will_do() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let settings = pki::settings(folder.path(), &ca);
    let old = Ca::valid("ca", -3600, -1);
    let renewed = ca.params.self_signed(old.issuer.key()).unwrap().pem();
    for bundle in [format!("{}{renewed}", old.pem), format!("{renewed}{}", old.pem)] {
        std::fs::write(&settings.client_ca[0].file, bundle).unwrap();
        let files = read_clients(&settings, Timestamp::now()).unwrap();
        let trust = ClientTrust::parse(&settings, &files, &Arc::default()).unwrap();
        let chain = [old.client(1).der];
        assert!(trust.verifier.verify(&chain, &HashSet::new(), Timestamp::now()).is_ok());
    }
}

/// As operators read it.
#[test]
fn a_refusal_says_why() {
    let (folder, ca) = (folder(), Ca::new("ca"));
    let trust = Trust::load(pki::settings(folder.path(), &ca)).unwrap();
    let refused = |chain: &[CertificateDer<'static>]| verify_chain(&trust, chain).unwrap_err().to_string();
    let leaf = |with: &dyn Fn(&mut CertificateParams)| vec![ca.leaf("client", with).der];
    let below = |with: &dyn Fn(&mut CertificateParams), leaf: &dyn Fn(&mut CertificateParams)| {
        let team = ca.intermediate("team", with);
        vec![team.leaf("client", leaf).der, team.der]
    };
    let constrained = |base: GeneralSubtree| {
        move |params: &mut CertificateParams| {
            let permitted_subtrees = vec![base.clone()];
            params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
        }
    };
    let policies = |params: &mut CertificateParams| {
        let mut extension =
            CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 0x06, 0x30, 0x04, 0x06, 0x02, 0x2a, 3]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let nothing = |_: &mut CertificateParams| ();
    let as_ca = |params: &mut CertificateParams| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let no_ca = |params: &mut CertificateParams| params.is_ca = rcgen::IsCa::NoCa;
    let short =
        |params: &mut CertificateParams| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let team = ca.intermediate("team", short);
    let too_deep = team.intermediate("deeper", nothing);
    for (chain, expected) in [
        (
            leaf(&policies),
            "CN=client has the critical extension certificatePolicies (2.5.29.32), which Writ does not process",
        ),
        (leaf(&as_ca), "CN=client is the certificate of a CA, not of a client"),
        (below(&no_ca, &nothing), "CN=team is not the certificate of a CA (basicConstraints), but signed another"),
        (
            below(&constrained(GeneralSubtree::DnsName("team.example".into())), &nothing),
            "a name violates the name constraints of CN=team",
        ),
        (
            below(&constrained(GeneralSubtree::DirectoryName(ca.params.distinguished_name.clone())), &nothing),
            "a name violates the name constraints of CN=team; those on directory names are not evaluated",
        ),
        (
            vec![too_deep.client(1).der, too_deep.der.clone(), team.der.clone()],
            "the chain is longer than the path length constraint",
        ),
        (vec![ca.expired_client().der], "CN=client expired at 20"),
        (vec![ca.future_client().der], "CN=client is not valid before 20"),
        (vec![ca.server().der], "CN=server is not for clients: its extended key usage lacks clientAuth"),
        (vec![Ca::new("ca").client(1).der], "no key of the issuer CN=ca made the signature"),
        (vec![Ca::new("b").client(1).der], "no CA in tls.client_ca has the name of the issuer, CN=b,"),
        (vec![ca.client(1).der; 11], "the client presented 11 certificates; at most 10 are read"),
        (vec![], "the client presented no certificate"),
        (vec![vec![1, 2, 3].into()], "the certificate cannot be read"),
    ] {
        let message = refused(&chain);
        assert!(message.starts_with(expected), "{message}\n{expected}");
    }
    let hidden = "a\u{202e}\nb".to_owned() + &"x".repeat(500);
    let odd = Ca::new(&hidden).client(1).der;
    let message = refused(&[odd]);
    assert!(message.len() < 600 && message.contains("a\\u{202e}\\nb") && message.contains('…'), "{message}");
}
