//! Work that comes weeks later: a cancellation today, the deletion when the grace period is over.
//!
//! ```text
//! writ quickstart                                             # in one shell
//! cargo run --example delayed_purge -- quickstart cancel      # in another: today, the account service
//! cargo run --example delayed_purge -- quickstart purge       # later, the purge job
//! ```
//!
//! What is stored in between is a Txn-Token that expires within a minute. Only the purge job can make use of
//! it, and the purge job can do so once (its policy: `max_uses`).

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
/// How often the job asks before it leaves the rest to its next run.
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

/// The account service, while the customer and the access token are there.
async fn cancel(folder: &Path) -> Result<(), Box<dyn Error>> {
    let access_token = fs::read_to_string(folder.join("access-token.jwt"))?;
    let service = Tts::new(folder, "account-service")?;
    let (status, answer) = service.exchange("access_token", &access_token).await?;
    if status != 200 {
        return Err(format!("refused: {answer}").into());
    }
    // Without this member no policy could redeem the token, and storing it would be in vain.
    let until = answer["redeemable_until"].as_u64().ok_or("this token cannot be redeemed")?;
    let record = json!({ "token": answer["access_token"], "redeemable_until": until });
    fs::write(folder.join(CANCELLATION), record.to_string())?;
    println!("cancelled; the account can be purged until {until}");
    Ok(())
}

/// The purge job, when the grace period is over.
async fn purge(folder: &Path, mut lose_an_answer: bool) -> Result<(), Box<dyn Error>> {
    let record: Value = serde_json::from_slice(&fs::read(folder.join(CANCELLATION))?)?;
    let stored = record["token"].as_str().ok_or("no token in the record")?;
    if record["redeemable_until"].as_u64().ok_or("no time in the record")? < now()? {
        return Err("too late: the customer has to ask again".into());
    }
    let service = Tts::new(folder, "purge-job")?;
    for attempt in 1..=ATTEMPTS {
        let outcome = service.exchange("txn_token", stored).await;
        if std::mem::take(&mut lose_an_answer) {
            eprintln!("attempt {attempt}: the answer was lost (not really)");
            continue;
        }
        match outcome {
            Ok((200, answer)) => {
                println!("{}", answer["access_token"].as_str().ok_or("no access_token")?);
                eprintln!("attempt {attempt}: the account is purged with this token");
                return Ok(());
            }
            Ok((400, answer)) if answer["reason"] == "redemption_too_early" => {
                println!("too early: come again at {}", answer["redeemable_at"]);
                return Ok(());
            }
            // Temporary, or the answer was lost. The same call is safe: while the token of the first answer lives, it
            // brings the same claims, and no second use is counted.
            Ok((429 | 500.., answer)) => eprintln!("attempt {attempt}: {}", answer["reason"]),
            Err(error) => eprintln!("attempt {attempt}: {error}"),
            Ok((status, answer)) => return Err(format!("{status}: {answer}").into()),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err("no answer; the record stays for the next run".into())
}

/// The service as one client reaches it.
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
            // In a quickstart there is no DNS for this name; in production there is.
            .resolve(HOST, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { client, token_endpoint: issuer.join("/token")? })
    }

    /// Exchanges a token for one with which the account can be purged: status and answer.
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
