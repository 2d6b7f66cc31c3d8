//! Readable causes of failed calls: the HTTP client's own texts are nested five deep and name its internals.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// The cause of a failed call, as text. It contains nothing of the request.
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let chain: Vec<_> = std::iter::successors(Some(error), |&error| error.source()).collect();
    if let Some(tls) = chain.iter().find_map(|error| tls_error(*error)) {
        return explain_tls(tls);
    }
    let texts: Vec<_> = chain.iter().map(ToString::to_string).collect();
    let last = texts.last().cloned().unwrap_or_default();
    if texts.iter().any(|text| text.contains("dns error")) {
        return format!("the host name cannot be resolved ({last})");
    }
    let io = chain.iter().find_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind);
    match io {
        Some(io::ErrorKind::ConnectionRefused) => {
            "the connection was refused: nothing listens at that address".to_owned()
        }
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) => {
            format!("the other side ended the connection ({last})")
        }
        _ if texts.iter().any(|text| text.contains("timed out")) => "it took too long".to_owned(),
        // The outer texts repeat the inner ones, or the address.
        _ => texts[texts.len().saturating_sub(2)..].join(": "),
    }
}

/// Finds a TLS error, which is nested in I/O errors whose `source` skips it.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<io::Error>() {
        Some(outer) => tls_error(outer.get_ref()?),
        None => error.downcast_ref(),
    }
}

fn explain_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(cause) => {
            format!("the certificate of the server is refused: {}", refusal(cause))
        }
        rustls::Error::AlertReceived(alert) => {
            format!("the server ended the TLS handshake{}", meaning(*alert))
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS (is it the right port?)".to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

fn refusal(cause: &CertificateError) -> String {
    match cause {
        CertificateError::UnknownIssuer => {
            "it was not issued by a CA that is trusted here (is it the right CA file?)".to_owned()
        }
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName => "it is for another host".to_owned(),
        CertificateError::InvalidPurpose => {
            "it is not for servers (it lacks the extended key usage serverAuth)".to_owned()
        }
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::BadSignature => {
            "it was issued by another CA of the same name (is it the right CA file?)".to_owned()
        }
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        CertificateError::Other(other) if other.0.to_string().contains("CaUsedAsEndEntity") => {
            "it is the certificate of a CA, not of a server".to_owned()
        }
        other => other.to_string(),
    }
}

/// The meaning of the alert of a server that refuses a client.
fn meaning(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::UnknownCA => "it does not trust the CA of the client certificate (unknown_ca)",
        AlertDescription::CertificateRequired => "it requires a client certificate (certificate_required)",
        AlertDescription::CertificateExpired => "the client certificate is out of date (certificate_expired)",
        AlertDescription::CertificateRevoked => "the client certificate is revoked (certificate_revoked)",
        AlertDescription::BadCertificate => "it cannot accept the client certificate (bad_certificate)",
        AlertDescription::UnsupportedCertificate => {
            "the client certificate is not for clients (unsupported_certificate; it needs clientAuth)"
        }
        AlertDescription::CertificateUnknown => "it does not accept the client certificate (certificate_unknown)",
        AlertDescription::DecryptError => {
            "the client certificate was issued by another CA of the same name (decrypt_error; is it the right CA?)"
        }
        AlertDescription::AccessDenied => "it denies access to this client certificate (access_denied)",
        AlertDescription::HandshakeFailure => "no common parameters (handshake_failure)",
        AlertDescription::ProtocolVersion => "no common version of TLS (protocol_version)",
        AlertDescription::UnrecognisedName => "it does not know the host name (unrecognized_name)",
        AlertDescription::InternalError => "it has an internal error (internal_error)",
        other => return format!(" with alert {}", u8::from(other)),
    };
    format!(": {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(error: rustls::Error) -> String {
        explain(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_cause_is_readable() {
        let refused: io::Error = io::ErrorKind::ConnectionRefused.into();
        assert!(explain(&refused).starts_with("the connection was refused"));
        assert!(wrapped(CertificateError::UnknownIssuer.into()).contains("not issued by a CA that is trusted here"));
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let twice = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert.clone()));
        assert_eq!(explain(&twice), wrapped(alert.clone()));
        assert!(wrapped(alert).ends_with("does not trust the CA of the client certificate (unknown_ca)"));
        let alert = rustls::Error::AlertReceived(AlertDescription::DecryptError);
        for same_name in [alert, CertificateError::BadSignature.into()] {
            assert!(wrapped(same_name).contains("issued by another CA of the same name"));
        }
        assert!(wrapped(InvalidMessage::InvalidContentType.into()).contains("does not speak TLS"));
        assert!(explain(&io::Error::other("dns error")).starts_with("the host name cannot be resolved"));
    }
}
