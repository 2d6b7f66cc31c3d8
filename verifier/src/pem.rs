//! PEM files (RFC 7468), read so that nothing in them is dropped without a word: each block is what the file is for,
//! or an error with its number.
//!
//! Text between the blocks is allowed, and so are a byte order mark before a block, any kind of line end and spaces
//! at the ends of lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// One of these words ends each label of a certificate, list or key.
const LABEL_ENDS: [&str; 8] = ["CERTIFICATE", "CERTIFICATES", "CHAIN", "CRL", "KEY", "PARAMETERS", "PKCS7", "REQUEST"];
/// More of a label is never shown.
const LABEL_SHOWN: usize = 48;

/// What a [`Block`] of certificates is called.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// What a [`Block`] with a revocation list is called.
pub const CRL: &str = "X509 CRL";

/// Whether a block of this label belongs to a private key, which may stand in the file of its certificate.
pub fn is_of_key(label: &str) -> bool {
    label.ends_with("PRIVATE KEY") || label.ends_with("PARAMETERS")
}

/// One block of the kind that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its number in the file, from 1; blocks of other kinds count too.
    pub number: usize,
    /// What it holds.
    pub der: Vec<u8>,
}

/// Why a file is refused. Blocks are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Saved with two bytes for each character.
    #[error("is UTF-16 text; save it as UTF-8 or ASCII")]
    Utf16,
    /// There is no block.
    #[error("holds no {0} block (PEM)")]
    Nothing(String),
    /// A block of another kind.
    #[error("block {number} is a {label}, not a {wanted}")]
    Label {
        /// Which block.
        number: usize,
        /// What it says it is.
        label: String,
        /// What the file is for.
        wanted: String,
    },
    /// A block without its last line.
    #[error("block {number} ({label}) has no line -----END {label}-----")]
    Unended {
        /// Which block.
        number: usize,
        /// What it says it is.
        label: String,
    },
    /// A block that holds something else than base64.
    #[error("block {number} ({label}) is not base64")]
    Garbled {
        /// Which block.
        number: usize,
        /// What it says it is.
        label: String,
    },
    /// A line that begins or ends a block for a person, but not by the rules.
    #[error(
        "line {line} looks like the begin or end of block {number}, but is not a line -----BEGIN …----- or -----END …----- of its own"
    )]
    Marker {
        /// Which line, from 1.
        line: usize,
        /// The block that would begin or end there.
        number: usize,
    },
    /// A block that holds base64 of something else.
    #[error("block {number} ({label}) cannot be read")]
    Content {
        /// Which block.
        number: usize,
        /// What it says it is.
        label: String,
    },
}

/// The blocks labelled `wanted`, at least one; those that `skip` names by their label are passed over.
///
/// # Errors
/// [`PemError`] for any other block, for one that is not whole, and if there is none.
pub fn blocks(file: &[u8], wanted: &str, skip: impl Fn(&str) -> bool) -> Result<Vec<Block>, PemError> {
    if file.starts_with(&[0xff, 0xfe]) || file.starts_with(&[0xfe, 0xff]) {
        return Err(PemError::Utf16);
    }
    let mut blocks = Vec::new();
    let mut number = 0;
    let mut open: Option<(String, Vec<u8>)> = None;
    for (line, text) in lines(file).enumerate() {
        let malformed = |number| PemError::Marker { line: line + 1, number };
        if let Some(label) = marker(text, BEGIN) {
            if let Some((label, _)) = open {
                return Err(PemError::Unended { number, label });
            }
            number += 1;
            if label != wanted && !skip(&label) {
                return Err(PemError::Label { number, label, wanted: wanted.to_owned() });
            }
            open = Some((label, Vec::new()));
        } else if let Some(label) = marker(text, END) {
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

/// Without the spaces around them, and without byte order marks, which joined files have in their middle.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    // A line end of two bytes leaves an empty line behind, which means nothing anywhere; it must not be counted.
    file.split(|&byte| byte == b'\n')
        .flat_map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|&byte| byte == b'\r'))
        .map(|line| {
            let line = line.trim_ascii();
            line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii()
        })
}

fn marker(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(DASHES)?;
    let plain = !label.is_empty() && label.iter().all(|byte| matches!(byte, b' '..=b'~')) && !label.contains(&b'-');
    plain.then(|| String::from_utf8_lossy(&label[..label.len().min(LABEL_SHOWN)]).into_owned())
}

/// Two blocks on one line, a dash too few, lower case, dashes of another kind: what a person takes for a block must
/// not pass for text.
fn looks_like_marker(line: &[u8]) -> bool {
    let upper = line.to_ascii_uppercase();
    [&b"--BEGIN "[..], b"--END "].iter().any(|mark| upper.windows(mark.len()).any(|window| window == *mark))
        || names_block(&String::from_utf8_lossy(line))
}

/// Whether BEGIN or END with a label stands in this line, whatever stands around and between the words.
fn names_block(line: &str) -> bool {
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
    fn every_block_is_read_whatever_stands_around_it() {
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
    fn whatever_cannot_be_used_is_an_error_with_its_number() {
        let with = |second: &str| format!("{ONE}{second}");
        let nothing = "holds no CERTIFICATE block (PEM)";
        for (file, complaint) in [
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
            let complained = read(file.as_bytes()).unwrap_err();
            assert!(complained.starts_with(complaint), "{file:?}: {complained}");
        }
        let of_windows = with(&TWO.replace("-----", "~"));
        let of_windows: Vec<u8> = of_windows.bytes().map(|byte| if byte == b'~' { 0x96 } else { byte }).collect();
        assert!(read(&of_windows).unwrap_err().starts_with("line 5 looks like"));
        let utf16: Vec<u8> = format!("\u{feff}{ONE}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(read(&utf16).unwrap_err().contains("UTF-16"));
    }

    #[test]
    fn what_is_skipped_counts_all_the_same() {
        let file = format!("{}{TWO}", ONE.replace("CERTIFICATE", "EC PRIVATE KEY"));
        let found = blocks(file.as_bytes(), CERTIFICATE, is_of_key).unwrap();
        assert_eq!(found, [Block { number: 2, der: vec![6, 7] }]);
    }
}
