//! A strict parser for PEM files (RFC 7468): it ignores no block silently. Each block is of the expected type, or is
//! reported as an error with its number.
//!
//! Text between the blocks is allowed, and so are a byte order mark before a block, any line ending, and white space
//! at the ends of lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The last words of the labels of certificates, CRLs and keys.
const LABEL_ENDS: [&str; 8] = ["CERTIFICATE", "CERTIFICATES", "CHAIN", "CRL", "KEY", "PARAMETERS", "PKCS7", "REQUEST"];
/// Messages show at most this many bytes of a label.
const LABEL_SHOWN: usize = 48;

/// The label of a certificate (RFC 7468 §5).
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a certificate revocation list (RFC 7468 §6).
pub const CRL: &str = "X509 CRL";

/// Whether a block with this label belongs to a private key. A file may contain a certificate together with its key.
pub fn is_of_key(label: &str) -> bool {
    label.ends_with("PRIVATE KEY") || label.ends_with("PARAMETERS")
}

/// A block of the expected type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Number of the block in the file, from 1; blocks of other types count too.
    pub number: usize,
    /// The decoded content, not empty.
    pub der: Vec<u8>,
}

/// Why a file is refused. Blocks and lines are counted from 1. The messages continue after the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The file is UTF-16 text.
    #[error("is UTF-16 text; save it as UTF-8 or ASCII")]
    Utf16,
    /// The file contains no block of the expected type.
    #[error("holds no {0} block (PEM)")]
    Nothing(String),
    /// A block has an unexpected type.
    #[error("block {number} is a {label}, not a {wanted}")]
    Label {
        /// Number of the block.
        number: usize,
        /// The actual label, at most 48 bytes of it.
        label: String,
        /// The expected label.
        wanted: String,
    },
    /// A block has no end line with the same label.
    #[error("block {number} ({label}) has no line -----END {label}-----")]
    Unended {
        /// Number of the block.
        number: usize,
        /// The actual label, at most 48 bytes of it.
        label: String,
    },
    /// The content of a block is empty or not base64.
    #[error("block {number} ({label}) is not base64")]
    Garbled {
        /// Number of the block.
        number: usize,
        /// The actual label, at most 48 bytes of it.
        label: String,
    },
    /// A line looks like the begin or end of a block, but does not have the required syntax (RFC 7468 §3).
    #[error(
        "line {line} looks like the begin or end of block {number}, but is not a line -----BEGIN …----- or -----END …----- of its own"
    )]
    Marker {
        /// Number of the line.
        line: usize,
        /// Number of the block that would begin or end there.
        number: usize,
    },
    /// The content of a block is not what its label says.
    #[error("block {number} ({label}) cannot be read")]
    Content {
        /// Number of the block.
        number: usize,
        /// The actual label, at most 48 bytes of it.
        label: String,
    },
}

/// The blocks with the label `wanted`, at least one. Blocks whose label `skip` accepts are ignored.
///
/// # Errors
/// [`PemError`] if the file contains any other block, an incomplete or malformed block, or no block labelled `wanted`.
pub fn blocks(file: &[u8], wanted: &str, skip: impl Fn(&str) -> bool) -> Result<Vec<Block>, PemError> {
    if file.starts_with(&[0xff, 0xfe]) || file.starts_with(&[0xfe, 0xff]) {
        return Err(PemError::Utf16);
    }
    let mut blocks = Vec::new();
    let mut number = 0;
    let mut open: Option<(String, Vec<u8>)> = None;
    for (line, text) in lines(file).enumerate() {
        let malformed = |number| PemError::Marker { line: line + 1, number };
        if let Some(label) = parse_marker(text, BEGIN) {
            if let Some((label, _)) = open {
                return Err(PemError::Unended { number, label });
            }
            number += 1;
            if label != wanted && !skip(&label) {
                return Err(PemError::Label { number, label, wanted: wanted.to_owned() });
            }
            open = Some((label, Vec::new()));
        } else if let Some(label) = parse_marker(text, END) {
            let (begun, base64) = open.take().ok_or_else(|| malformed(number + 1))?;
            if begun != label {
                return Err(PemError::Unended { number, label: begun });
            }
            if begun == wanted {
                let der = STANDARD.decode(base64).ok().filter(|der| !der.is_empty());
                let der = der.ok_or(PemError::Garbled { number, label })?;
                blocks.push(Block { number, der });
            }
        } else if looks_like_marker(text) {
            return Err(malformed(if open.is_some() { number } else { number + 1 }));
        } else if let Some((label, base64)) = &mut open
            && label == wanted
        {
            base64.extend_from_slice(text);
        }
    }
    if let Some((label, _)) = open {
        return Err(PemError::Unended { number, label });
    }
    if blocks.is_empty() { Err(PemError::Nothing(wanted.to_owned())) } else { Ok(blocks) }
}

/// The lines without surrounding white space, and without byte order marks, which concatenated files contain in the
/// middle.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    // CRLF must count as one line end, so that the line numbers are right.
    file.split(|&byte| byte == b'\n')
        .flat_map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|&byte| byte == b'\r'))
        .map(|line| {
            let line = line.trim_ascii();
            line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii()
        })
}

/// The label of a line `-----BEGIN label-----` or `-----END label-----`.
fn parse_marker(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(DASHES)?;
    let plain = !label.is_empty() && label.iter().all(|byte| matches!(byte, b' '..=b'~')) && !label.contains(&b'-');
    plain.then(|| String::from_utf8_lossy(&label[..label.len().min(LABEL_SHOWN)]).into_owned())
}

/// Whether a person would take the line for the begin or end of a block, despite missing or typographic dashes, lower
/// case, or two markers on one line. Such a line must not count as text between the blocks.
fn looks_like_marker(line: &[u8]) -> bool {
    let upper = line.to_ascii_uppercase();
    [&b"--BEGIN "[..], b"--END "].iter().any(|mark| upper.windows(mark.len()).any(|window| window == *mark))
        || contains_label(&String::from_utf8_lossy(line))
}

/// Whether the line contains BEGIN or END and a label, whatever characters are around and between the words.
fn contains_label(line: &str) -> bool {
    let words: Vec<_> = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.iter().enumerate().any(|(index, word)| {
        let Some(first) = word.strip_prefix("BEGIN").or_else(|| word.strip_prefix("END")) else { return false };
        let rest = words[index + 1..].iter().copied();
        let label = [first].into_iter().chain(rest).take_while(|word| !word.contains(char::is_lowercase));
        label.take(4).any(|word| LABEL_ENDS.contains(&word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAQID\nBAU=\n-----END CERTIFICATE-----\n";
    const TWO: &str = "-----BEGIN CERTIFICATE-----\nBgc=\n-----END CERTIFICATE-----\n";

    fn read(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let found = blocks(file, CERTIFICATE, |_| false);
        found.map(|all| all.into_iter().map(|block| block.der).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn blocks_are_found_in_any_surrounding_text() {
        let both = Ok(vec![vec![1, 2, 3, 4, 5], vec![6, 7]]);
        let text = "Bag Attributes\n    friendlyName: Zoë -- the first\nsubject=CN = Front-End Services\n# END OF LIST, the end certificate of WEEKEND CERTIFICATE Ltd\n";
        for file in [
            format!("{ONE}{TWO}"),
            format!("\u{feff}{ONE}{TWO}"),
            format!("{ONE}\u{feff}{TWO}"),
            format!("{ONE}{TWO}").replace('\n', "\r\n"),
            format!("{ONE}{TWO}").replace('\n', "\r"),
            format!("{ONE}{TWO}").replace('\n', " \t\n"),
            format!("{ONE}{TWO}").replace('\n', "\n    "),
            format!("{text}{ONE}\n\n# the second\n{TWO}{text}"),
            format!("{ONE}{TWO}").trim_end().to_owned(),
        ] {
            assert_eq!(read(file.as_bytes()), both, "{file:?}");
        }
        let latin = [b"# caf\xe9\n", ONE.as_bytes(), TWO.as_bytes()].concat();
        assert_eq!(read(&latin), both);
    }

    #[test]
    fn unusable_blocks_are_errors_with_their_numbers() {
        let with = |second: &str| format!("{ONE}{second}");
        let nothing = "holds no CERTIFICATE block (PEM)";
        for (file, expected) in [
            (String::new(), nothing),
            ("nonsense".to_owned(), nothing),
            (
                with(&TWO.replace("CERTIFICATE", "TRUSTED CERTIFICATE")),
                "block 2 is a TRUSTED CERTIFICATE, not a CERTIFICATE",
            ),
            (with(&TWO.replace("CERTIFICATE", "X509 CRL")), "block 2 is a X509 CRL, not a CERTIFICATE"),
            (with(&TWO.replace("CERTIFICATE", "PRIVATE KEY")), "block 2 is a PRIVATE KEY, not a CERTIFICATE"),
            (with(&TWO.replace("Bgc=", "Bg!c=")), "block 2 (CERTIFICATE) is not base64"),
            (with(&TWO.replace("Bgc=", "Bgc")), "block 2 (CERTIFICATE) is not base64"),
            (with(&TWO.replace("Bgc=", "")), "block 2 (CERTIFICATE) is not base64"),
            (with(&TWO[..40]), "block 2 (CERTIFICATE) has no line -----END CERTIFICATE-----"),
            (with(&format!("{}{TWO}", &TWO[..33])), "block 2 (CERTIFICATE) has no line -----END CERTIFICATE-----"),
            (with(&TWO.replace("END CERT", "END X")), "block 2 (CERTIFICATE) has no line -----END CERTIFICATE-----"),
            (format!("{}{TWO}", ONE.trim_end()), "line 4 looks like the begin or end of block 1"),
            (with(&TWO.replace("-----", "----")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.to_lowercase()), "line 5 looks like the begin or end of block 2"),
            (with(&TWO[28..]), "line 6 looks like the begin or end of block 2"),
            (with(&format!("> {TWO}")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replace("-----", "\u{2013}\u{2013}\u{2013}")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replace("-----", "\u{2014}")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replace("-----", "")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replace("BEGIN ", "BEGIN\u{a0}")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replace("BEGIN ", "BEGIN")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replace("BEGIN ", " BEGIN  TRUSTED_")), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replacen("E-----", "E----", 1)), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replacen("E-----", "E\u{2013}", 1)), "line 5 looks like the begin or end of block 2"),
            (with(&TWO.replace("-----END", "\u{2013}END")), "line 7 looks like the begin or end of block 2"),
            (with("\u{2013}BEGIN X509 CRL\u{2013}\n"), "line 5 looks like the begin or end of block 2"),
            (with("\u{2013}BEGIN EC PRIVATE KEY\u{2013}\n"), "line 5 looks like the begin or end of block 2"),
        ] {
            let message = read(file.as_bytes()).unwrap_err();
            assert!(message.starts_with(expected), "{file:?}: {message}");
        }
        let windows_1252 = with(&TWO.replace("-----", "~"));
        let windows_1252: Vec<u8> = windows_1252.bytes().map(|byte| if byte == b'~' { 0x96 } else { byte }).collect();
        assert!(read(&windows_1252).unwrap_err().starts_with("line 5 looks like"));
        let utf16: Vec<u8> = format!("\u{feff}{ONE}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(read(&utf16).unwrap_err().contains("UTF-16"));
    }

    #[test]
    fn skipped_blocks_are_counted() {
        let file = format!("{}{TWO}", ONE.replace("CERTIFICATE", "EC PRIVATE KEY"));
        let found = blocks(file.as_bytes(), CERTIFICATE, is_of_key).unwrap();
        assert_eq!(found, [Block { number: 2, der: vec![6, 7] }]);
    }
}
