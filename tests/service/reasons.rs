//! Every `reason` of the contract is provoked by a test in this folder, or is listed here with the reason why not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Causes that nobody can bring about from outside; each is tested where it lies.
const FROM_INSIDE: [(&str, &str); 2] = [
    ("internal", "takes a fault of the program; a panic and its answer are tested on the listener's own sockets"),
    ("overloaded", "takes a thousand requests at one time; tested on the listener's own sockets"),
];

/// The rows of the contract's table of refusals.
fn reasons() -> BTreeSet<String> {
    let contract =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/http-api.md")).unwrap();
    let table = contract.split("| HTTP | `error` | `reason` |").nth(1).expect("the table of refusals");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        row.rsplit('|')
            .nth(1)
            .expect("a third column")
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .filter(|word| word.contains('_') || word == "internal" || word == "overloaded" || word == "blocked")
    .collect()
}

#[test]
fn every_reason_of_the_contract_is_provoked_by_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service");
    let mut tests = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The policy tools provoke nothing: they say what would be.
        if path.file_name().is_some_and(|name| name != "reasons.rs" && name != "policy_tools.rs") {
            tests += &fs::read_to_string(path).unwrap();
        }
    }
    let reasons = reasons();
    assert!(reasons.len() > 40 && reasons.contains("blocked") && reasons.contains("pdp_denied"), "{reasons:?}");
    let exempt: BTreeSet<_> = FROM_INSIDE.iter().map(|(reason, _)| (*reason).to_owned()).collect();
    let provoked = |reason: &&String| tests.contains(&format!("\"{reason}\""));
    let missing: Vec<_> = reasons.difference(&exempt).filter(|reason| !provoked(reason)).collect();
    assert!(missing.is_empty(), "no test provokes {missing:?}");
    assert!(exempt.is_subset(&reasons));
}
