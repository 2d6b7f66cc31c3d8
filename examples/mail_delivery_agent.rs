//! A mail delivery agent: mail arrives for a user who is not present, and one request gets the Txn-Token to deliver it.
//!
//! ```text
//! writ quickstart                                                                # in one shell
//! cargo run --example mail_delivery_agent -- quickstart bob@trust-domain.example # in another
//! ```
//!
//! The agent names the subject itself (`requested_subject`). Its policy says for which purpose it may, and whom: here
//! `mailbox.deliver` and `*@trust-domain.example`. Any other subject is refused before a token exists.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::{env, fs};

use reqwest::{Certificate, Client, Identity, Url};
use serde_json::Value;
use url::form_urlencoded;

const CLIENT: &str = "mail-delivery-agent";
const HOST: &str = "tts.trust-domain.example";

/// What came of one mail.
enum Delivery {
    /// The token for it.
    Token(String),
    /// Not ours to deliver; `reason` of the refusal.
    Refused(String),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "quickstart".to_owned());
    let mut recipients: Vec<String> = arguments.collect();
    if recipients.is_empty() {
        recipients.push("bob@trust-domain.example".to_owned());
    }

    let folder = Path::new(&folder);
    let issuer = issuer(folder)?;
    // One client for all: connections are kept, handshakes cost more than tokens.
    let client = client(folder, &issuer)?;
    for recipient in recipients {
        match ask(&client, &issuer, &recipient).await? {
            Delivery::Token(token) => {
                eprintln!("mail for {recipient}: deliver it with this token");
                println!("{token}");
            }
            Delivery::Refused(reason) => eprintln!("mail for {recipient}: returned to its sender ({reason})"),
        }
    }
    Ok(())
}

async fn ask(client: &Client, issuer: &Url, recipient: &str) -> Result<Delivery, Box<dyn Error>> {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:txn_token")
        .append_pair("audience", "trust-domain.example")
        .append_pair("scope", "mailbox.deliver")
        .append_pair("requested_subject", recipient)
        .finish();
    let request = client.post(issuer.join("/token")?).header("content-type", "application/x-www-form-urlencoded");
    let response = request.body(form).send().await?;
    let status = response.status();
    let answer: Value = serde_json::from_slice(&response.bytes().await?)?;
    let text = |member: &str| answer[member].as_str().unwrap_or_default().to_owned();
    match (status.as_u16(), text("reason").as_str()) {
        (200, _) => Ok(Delivery::Token(text("access_token"))),
        // The answer to this mail, and no reason to stop.
        (400, "subject_not_allowed" | "parameter_malformed") => Ok(Delivery::Refused(text("reason"))),
        // 429 and 503: the mail stays in the queue. Any other status: a problem of certificate or policy, for an operator.
        (status, reason) => Err(format!("{status} {reason}: {}", text("error_description")).into()),
    }
}

/// mTLS: our certificate and key, and the only CA that the service's certificate may come from.
fn client(folder: &Path, issuer: &Url) -> Result<Client, Box<dyn Error>> {
    let file = |name: &str| fs::read(folder.join("certs").join(name));
    let identity = [file(&format!("{CLIENT}.pem"))?, file(&format!("{CLIENT}.key"))?].concat();
    let port = issuer.port_or_known_default().ok_or("no port")?;
    Ok(Client::builder()
        .tls_certs_only([Certificate::from_pem(&file("ca.pem")?)?])
        .identity(Identity::from_pem(&identity)?)
        // In a quickstart there is no DNS for this name; in production there is.
        .resolve(HOST, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .build()?)
}

/// Where the service is; in production a setting of the workload.
fn issuer(folder: &Path) -> Result<Url, Box<dyn Error>> {
    let text = fs::read_to_string(folder.join("writ.toml"))?;
    let address = text.lines().find_map(|line| line.strip_prefix("issuer = ")).ok_or("no issuer in writ.toml")?;
    Ok(Url::parse(address.trim().trim_matches('"'))?)
}
