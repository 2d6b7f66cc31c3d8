//! Delayed work: a customer cancels an account today, and a job deletes it weeks later, after a grace period.
//!
//! ```text
//! writ quickstart                                             # in one shell
//! cargo run --example delayed_purge -- quickstart cancel      # in another: the account service, today
//! cargo run --example delayed_purge -- quickstart purge       # the purge job, later
//! ```
//!
//! The account service stores a Txn-Token that expires within a minute. Only the purge job can redeem it, and only once
//! (`max_uses` in its policy).

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{env, fs};

use reqwest::{Certificate, Client, Identity, Url};
use serde_json::{Value, json};
use url::form_urlencoded;

const HOST: &str = "tts.trust-domain.example";
const CANCELLATION: &str = "cancellation.json";
/// How often the job tries before it leaves the work to its next run.
const ATTEMPTS: u32 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let folder = Path::new(arguments.first().map_or("quickstart", String::as_str));
    match arguments.get(1).map(String::as_str) {
        Some("cancel") => cancel(folder).await,
        Some("purge") => purge(folder, arguments.iter().any(|argument| argument == "--lose-an-answer")).await,
        _ => Err("usage: delayed_purge FOLDER cancel | purge [--lose-an-answer]".into()),
    }
}

/// The account service, while the access token of the customer is valid.
async fn cancel(folder: &Path) -> Result<(), Box<dyn Error>> {
    let access_token = fs::read_to_string(folder.join("access-token.jwt"))?;
    let service = Tts::new(folder, "account-service")?;
    let (status, body) = service.exchange("access_token", &access_token).await?;
    if status != 200 {
        return Err(format!("refused: {body}").into());
    }
    // Without this member the token cannot be redeemed, and there is no point in storing it.
    let until = body["redeemable_until"].as_u64().ok_or("this token cannot be redeemed")?;
    let record = json!({ "token": body["access_token"], "redeemable_until": until });
    fs::write(folder.join(CANCELLATION), record.to_string())?;
    println!("cancelled; the account can be purged until {until}");
    Ok(())
}

/// The purge job, after the grace period.
async fn purge(folder: &Path, mut lose_an_answer: bool) -> Result<(), Box<dyn Error>> {
    let record: Value = serde_json::from_slice(&fs::read(folder.join(CANCELLATION))?)?;
    let stored = record["token"].as_str().ok_or("no token in the record")?;
    if record["redeemable_until"].as_u64().ok_or("no time in the record")? < now()? {
        return Err("too late: the customer must cancel again".into());
    }
    let service = Tts::new(folder, "purge-job")?;
    for attempt in 1..=ATTEMPTS {
        let outcome = service.exchange("txn_token", stored).await;
        if std::mem::take(&mut lose_an_answer) {
            eprintln!("attempt {attempt}: the response was lost (simulated)");
            continue;
        }
        match outcome {
            Ok((200, body)) => {
                println!("{}", body["access_token"].as_str().ok_or("no access_token")?);
                eprintln!("attempt {attempt}: the account is purged with this token");
                return Ok(());
            }
            Ok((400, body)) if body["reason"] == "redemption_too_early" => {
                println!("too early: try again at {}", body["redeemable_at"]);
                return Ok(());
            }
            // Temporary, or the response was lost. Repeating the request is safe: while the token of the first response
            // is valid, the same claims are returned, and no second use is counted.
            Ok((429 | 500.., body)) => eprintln!("attempt {attempt}: {}", body["reason"]),
            Err(error) => eprintln!("attempt {attempt}: {error}"),
            Ok((status, body)) => return Err(format!("{status}: {body}").into()),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err("no token; the record stays for the next run".into())
}

/// The Transaction Token Service, with the mTLS client of one workload.
struct Tts {
    client: Client,
    token_endpoint: Url,
}

impl Tts {
    fn new(folder: &Path, client_id: &str) -> Result<Self, Box<dyn Error>> {
        let file = |name: &str| fs::read(folder.join("certs").join(name));
        let identity = [file(&format!("{client_id}.pem"))?, file(&format!("{client_id}.key"))?].concat();
        let text = fs::read_to_string(folder.join("writ.toml"))?;
        let issuer = text.lines().find_map(|line| line.strip_prefix("issuer = ")).ok_or("no issuer in writ.toml")?;
        let issuer = Url::parse(issuer.trim().trim_matches('"'))?;
        let port = issuer.port_or_known_default().ok_or("no port")?;
        let client = Client::builder()
            .tls_certs_only([Certificate::from_pem(&file("ca.pem")?)?])
            .identity(Identity::from_pem(&identity)?)
            // A quickstart has no DNS entry for this name.
            .resolve(HOST, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { client, token_endpoint: issuer.join("/token")? })
    }

    /// Exchanges a token for one that authorizes the deletion (RFC 8693). Returns the status and the body.
    async fn exchange(&self, token_type: &str, token: &str) -> Result<(u16, Value), Box<dyn Error>> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:txn_token")
            .append_pair("audience", "trust-domain.example")
            .append_pair("scope", "account.purge")
            .append_pair("subject_token_type", &format!("urn:ietf:params:oauth:token-type:{token_type}"))
            .append_pair("subject_token", token)
            .finish();
        let request = self.client.post(self.token_endpoint.clone());
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_slice(&response.bytes().await?)?))
    }
}

fn now() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}
