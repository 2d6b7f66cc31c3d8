//! Two servers that `make bench` compares Writ with, on the same HTTP framework and TLS library.
//!
//! `null` answers every request with a fixed text: what a request costs before anything is decided. `ideal` verifies the
//! subject token and signs a Txn-Token with keys that were parsed once, and does nothing else: it knows no policy, no limit
//! and no revocation, counts nothing and writes no log. Neither may be used for anything but measurements.

mod ideal;
mod server;

use std::process::ExitCode;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{self, Bytes, ServiceConfig};

use self::ideal::Ideal;

type Error = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: writ-reference null CERTIFICATE KEY CLIENT_CA
       writ-reference ideal CERTIFICATE KEY CLIENT_CA JWKS ISSUER AUDIENCE
Certificates and key are PEM files, JWKS is a file with the keys of ISSUER.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["null", certificate, key, client_ca] => server::run([certificate, key, client_ca], Arc::new(null)),
        ["ideal", certificate, key, client_ca, jwks, issuer, audience] => {
            Ideal::load(jwks, issuer, audience).and_then(|ideal| {
                let ideal = Arc::new(ideal);
                server::run([certificate, key, client_ca], Arc::new(move |config| serve_ideal(&ideal, config)))
            })
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// As long as an answer of `ideal`.
const FIXED: [u8; 800] = [b'x'; 800];

fn null(config: &mut ServiceConfig) {
    config.route("/token", web::post().to(async |_: Bytes| HttpResponse::Ok().body(&FIXED[..])));
}

fn serve_ideal(ideal: &Arc<Ideal>, config: &mut ServiceConfig) {
    let ideal = Arc::clone(ideal);
    let exchange = move |body: Bytes| {
        let ideal = Arc::clone(&ideal);
        async move { ideal.exchange(&body) }
    };
    config.route("/token", web::post().to(exchange));
}
