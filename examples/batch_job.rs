//! A batch job that authenticates with its certificate alone: one request returns a Txn-Token for the job itself.
//!
//! ```text
//! writ quickstart                                # in one shell
//! cargo run --example batch_job -- quickstart    # in another
//! ```
//!
//! The job stores no access token, and no secret besides the private key of its certificate. It sends the token in the
//! `Txn-Token` header of every call of the transaction. A new transaction needs a new token.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::{env, fs};

use reqwest::{Certificate, Client, Identity, Url};
use serde_json::Value;
use url::form_urlencoded;

const CLIENT: &str = "mail-delivery-agent";
const HOST: &str = "tts.trust-domain.example";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Required once in each program that uses rustls.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = env::args().nth(1).unwrap_or_else(|| "quickstart".to_owned());
    let folder = Path::new(&folder);

    let issuer = read_issuer(folder)?;
    let client = build_client(folder, &issuer)?;
    let response = request_token(&client, &issuer, "mailbox.deliver").await?;
    let expires_in = response["expires_in"].as_u64().ok_or("no expires_in")?;
    eprintln!("received a token for {}, valid for {expires_in} s", response["scope"]);

    // Every call downstream carries the token, never as `Authorization`.
    let token = response["access_token"].as_str().ok_or("no access_token")?;
    let request = client.get("https://mailbox.trust-domain.example/").header("Txn-Token", token).build()?;
    eprintln!("ready to call {}", request.url());
    println!("{token}");
    Ok(())
}

/// Requests a token for the client itself (RFC 6749 §4.4).
async fn request_token(client: &Client, issuer: &Url, scope: &str) -> Result<Value, Box<dyn Error>> {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:txn_token")
        .append_pair("audience", "trust-domain.example")
        .append_pair("scope", scope)
        .finish();
    let request = client.post(issuer.join("/token")?).header("content-type", "application/x-www-form-urlencoded");
    let response = request.body(form).send().await?;
    let status = response.status();
    let body: Value = serde_json::from_slice(&response.bytes().await?)?;
    if status.is_success() {
        Ok(body)
    } else {
        // `reason` is for programs, `error_description` for people.
        Err(format!("refused: {} ({})", body["reason"], body["error_description"]).into())
    }
}

/// An mTLS client with the certificate of the job. It trusts only the CA that issued the certificate of the service.
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
