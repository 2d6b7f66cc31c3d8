use std::path::Path;
use std::time::Duration;

use writ_platform::clock::HumanDuration;

use super::value::MAX_SECONDS;
use super::*;

/// The problems that `read` finds in `text`, as `line key: message`.
fn complaints(text: &str, read: impl FnOnce(&mut Section<'_>)) -> Vec<String> {
    let (report, table) = Report::parse(Path::new("folder/x.toml"), text);
    let mut root = Section::root(&report, table);
    read(&mut root);
    root.finish();
    report.into_problems().iter().map(|p| format!("{} {}: {}", p.line, p.key, p.message)).collect()
}

#[test]
fn a_key_that_nobody_asked_for_is_named_with_its_line_and_the_nearest_known_one() {
    let found = complaints("a = 1\n\n[listen]\nexchnage = 2\nx = 3\n", |root| {
        root.integer("a", 0..=9);
        let mut listen = root.section("listen");
        listen.string("exchange");
        listen.string("ops");
        listen.finish();
    });
    assert_eq!(
        found,
        [
            "4 listen.exchnage: unknown key `listen.exchnage`: did you mean `exchange`?",
            "5 listen.x: unknown key `listen.x`"
        ]
    );
}

///
#[test]
fn a_value_of_the_wrong_type_is_named_with_what_it_should_be() {
    let text = "a = 1\nb = \"x\"\nc = true\nd = [\"x\",\n 2]\ne = 1.5\nf = [1]\ng = [1]\n";
    let found = complaints(text, |root| {
        assert!(root.string("a").is_none());
        assert!(root.flag("b").is_none());
        assert!(root.integer("c", 0..=9).is_none());
        assert!(root.list("d", str::parse::<String>).is_none());
        assert!(root.duration("e").is_none());
        assert!(root.table("f").is_none());
        assert!(root.tables("g").is_empty());
    });
    assert_eq!(
        found,
        [
            "1 a: must be a string, not a whole number",
            "2 b: must be true or false, not a string",
            "3 c: must be a whole number, not true or false",
            "5 d: must be a list of strings, not a whole number",
            "6 e: must be a string, not a fraction",
            "7 f: must be a table, not a list",
            "8 g: must be [[g]] tables, not a whole number",
        ]
    );
}

///
#[test]
fn a_key_or_table_that_is_written_twice_is_named_in_its_second_line() {
    let found = complaints("a = 1\na = 2\n[t]\nb = 1\n[t]\nc = 1\n", |root| {
        root.integer("a", 0..=9);
        let mut table = root.section("t");
        table.integer("b", 0..=9);
        table.integer("c", 0..=9);
        table.finish();
    });
    assert_eq!(found, ["2 a: is written twice", "5 t: is written twice"]);
}

#[test]
fn each_line_that_is_no_toml_is_named_once_and_hides_no_other_mistake() {
    let found = complaints("a = \nb = 'x\nc = 1\nd = 12\n", |root| {
        root.require(&["a", "z"]);
        root.duration("a");
        root.duration("b");
        root.integer("c", 0..=9);
        root.integer("d", 0..=9);
    });
    assert!(found[0].starts_with("1 : ") && found[1].starts_with("2 : "), "{found:?}");
    assert_eq!(found[2..], ["4 d: must be a whole number from 0 to 9"]);
}

#[test]
fn durations_are_whole_numbers_and_units_the_longest_first() {
    for (text, seconds) in [("60s", 60), ("10m", 600), ("24h", 86_400), ("90d", 7_776_000), ("0s", 0), ("007s", 7)] {
        assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for text in
        ["", "s", "60", "-1s", "+1s", "1.5h", "1 s", " 1s", "1S", "1w", "1ms", "1m1h", "1h1h", "1h30", "36501d", "1ä"]
    {
        assert!(duration(text).is_err(), "{text}");
    }
    for seconds in [0, 1, 90, 5_400, 86_401, 5_184_300, MAX_SECONDS] {
        let duration_of = Duration::from_secs(seconds);
        assert_eq!(
            duration(&HumanDuration(duration_of).to_string()),
            Ok(duration_of),
            "what is printed can be written"
        );
    }
    assert!(duration(&format!("{}d", u64::MAX)).is_err());
    let found = complaints("a = \"0s\"\nb = \"0s\"\n", |root| {
        root.duration("a");
        root.duration_or_zero("b");
    });
    assert_eq!(found, ["1 a: must be at least \"1s\""]);
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let found = complaints("a = \"certs/a.pem\"\nb = \"/b.pem\"\nc = \"\"\n", |root| {
        assert_eq!(root.path("a"), Some("folder/certs/a.pem".into()));
        assert_eq!(root.path("b"), Some("/b.pem".into()));
        root.path("c");
    });
    assert_eq!(found, ["3 c: must be a path"]);
}

#[test]
fn whole_numbers_are_read_in_every_notation() {
    let found = complaints("a = 0x10\nb = 1_000\nc = -1\nd = 99999999999999999999\n", |root| {
        assert_eq!(root.integer("a", 0..=99), Some(16));
        assert_eq!(root.integer("b", 0..=1_000), Some(1_000));
        assert_eq!(root.integer("c", 0..=9), None);
        assert_eq!(root.integer("d", 0..=9), None);
    });
    assert_eq!(found.len(), 2, "{found:?}");
}
