//! What a misspelt word was probably meant to be.

/// `: did you mean …?`, if one of `known` was probably meant.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default()
}

/// The known word that `word` was probably meant to be: at most two slips away, and no more than half of it wrong.
/// Capitals, and hyphens for underscores, are no slips.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    let (distance, near) = known.iter().map(|near| (distance(&word, near), *near)).min()?;
    (distance <= 2 && distance * 2 <= near.len()).then_some(near)
}

/// How many characters must be put in, left out, changed, or exchanged with their neighbour to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let changed = row[j] + usize::from(a[i] != b[j]);
            next[j + 1] = changed.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                next[j + 1] = next[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_spelling_is_at_most_two_slips_away() {
        let known = ["lifetime", "max_lifetime", "ops"];
        assert_eq!(nearest("liftime", &known), Some("lifetime"));
        assert_eq!(nearest("lifetmie", &known), Some("lifetime"));
        assert_eq!(nearest("maxlifetime", &known), Some("max_lifetime"));
        assert_eq!(nearest("op", &known), Some("ops"));
        assert_eq!(nearest("osp", &known), Some("ops"));
        assert_eq!(nearest("OPS", &known), Some("ops"));
        assert_eq!(nearest("Max-Lifetime", &known), Some("max_lifetime"));
        assert_eq!(nearest("tsl", &["tokens", "tls"]), Some("tls"));
        assert_eq!(nearest("spo", &known), None);
        assert_eq!(nearest("xy", &known), None);
        assert_eq!(nearest("lifeboat", &known), None);
        assert_eq!(nearest("lifetime", &[]), None);
    }
}
