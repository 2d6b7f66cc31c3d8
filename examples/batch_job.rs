//! A batch job with only a certificate: one request gets the Txn-Token that it needs, for itself.
//!
//! ```text
//! writ quickstart                                # in one shell
//! cargo run --example batch_job -- quickstart    # in another
//! ```
//!
//! Nothing long-lived is stored: no access token, no secret besides the key of the certificate. The token goes into the
//! `Txn-Token` header of every call of this transaction, and a new transaction begins with a new token.

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
    // Once in each program that uses rustls.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = env::args().nth(1).unwrap_or_else(|| "quickstart".to_owned());
    let folder = Path::new(&folder);

    let issuer = issuer(folder)?;
    let client = client(folder, &issuer)?;
    let answer = token(&client, &issuer, "mailbox.deliver").await?;
    let expires_in = answer["expires_in"].as_u64().ok_or("no expires_in")?;
    eprintln!("a token for {}, good for {expires_in} s", answer["scope"]);

    // Every downstream request carries the token, but never as `Authorization`.
    let token = answer["access_token"].as_str().ok_or("no access_token")?;
    let request = client.get("https://mailbox.trust-domain.example/").header("Txn-Token", token).build()?;
    eprintln!("ready to call {}", request.url());
    println!("{token}");
    Ok(())
}

/// Requests a token for the client itself.
async fn token(client: &Client, issuer: &Url, scope: &str) -> Result<Value, Box<dyn Error>> {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:txn_token")
        .append_pair("audience", "trust-domain.example")
        .append_pair("scope", scope)
        .finish();
    let request = client.post(issuer.join("/token")?).header("content-type", "application/x-www-form-urlencoded");
    let response = request.body(form).send().await?;
    let status = response.status();
    let answer: Value = serde_json::from_slice(&response.bytes().await?)?;
    if status.is_success() {
        Ok(answer)
    } else {
        // `reason` is for programs, `error_description` for people who read the log.
        Err(format!("refused: {} ({})", answer["reason"], answer["error_description"]).into())
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
