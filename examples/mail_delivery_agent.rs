//! A mail delivery agent: mail arrives while its recipient is offline, and one request returns the Txn-Token to deliver it.
//!
//! ```text
//! writ quickstart                                                                # in one shell
//! cargo run --example mail_delivery_agent -- quickstart bob@trust-domain.example # in another
//! ```
//!
//! The agent names the subject itself (`requested_subject`). Its policy defines for which purpose and for which subjects
//! it may do so: here `mailbox.deliver` and `*@trust-domain.example`. Writ refuses any other subject.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::{env, fs};

use reqwest::{Certificate, Client, Identity, Url};
use serde_json::Value;
use url::form_urlencoded;

const CLIENT: &str = "mail-delivery-agent";
const HOST: &str = "tts.trust-domain.example";

/// The result for one mail.
enum Delivery {
    /// The token to deliver it.
    Token(String),
    /// The agent may not deliver to this recipient; `reason` of the error.
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
    let issuer = read_issuer(folder)?;
    // One client for all requests: it reuses the connection, and a handshake costs more than a token.
    let client = build_client(folder, &issuer)?;
    for recipient in recipients {
        match request_token(&client, &issuer, &recipient).await? {
            Delivery::Token(token) => {
                eprintln!("mail for {recipient}: deliver it with this token");
                println!("{token}");
            }
            Delivery::Refused(reason) => eprintln!("mail for {recipient}: returned to its sender ({reason})"),
        }
    }
    Ok(())
}

async fn request_token(client: &Client, issuer: &Url, recipient: &str) -> Result<Delivery, Box<dyn Error>> {
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
    let body: Value = serde_json::from_slice(&response.bytes().await?)?;
    let text = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
    match (status.as_u16(), text("reason").as_str()) {
        (200, _) => Ok(Delivery::Token(text("access_token"))),
        // Only this mail is affected; continue with the next one.
        (400, "subject_not_allowed" | "parameter_malformed") => Ok(Delivery::Refused(text("reason"))),
        // 429 and 503 are temporary: the mail stays in the queue. Any other status needs an operator: the certificate or
        // the policy is wrong.
        (status, reason) => Err(format!("{status} {reason}: {}", text("error_description")).into()),
    }
}

/// An mTLS client with the certificate of the agent. It trusts only the CA that issued the certificate of the service.
fn build_client(folder: &Path, issuer: &Url) -> Result<Client, Box<dyn Error>> {
    let file = |name: &str| fs::read(folder.join("certs").join(name));
    let identity = [file(&format!("{CLIENT}.pem"))?, file(&format!("{CLIENT}.key"))?].concat();
    let port = issuer.port_or_known_default().ok_or("no port")?;
    Ok(Client::builder()
        .tls_certs_only([Certificate::from_pem(&file("ca.pem")?)?])
        .identity(Identity::from_pem(&identity)?)
        // A quickstart has no DNS entry for this name.
        .resolve(HOST, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .build()?)
}

/// The URL of the service. In production this is a setting of the workload.
fn read_issuer(folder: &Path) -> Result<Url, Box<dyn Error>> {
    let text = fs::read_to_string(folder.join("writ.toml"))?;
    let address = text.lines().find_map(|line| line.strip_prefix("issuer = ")).ok_or("no issuer in writ.toml")?;
    Ok(Url::parse(address.trim().trim_matches('"'))?)
}
