//! `docs/conformance.md`: each item of `docs/spec/requirements.md` with the tests whose doc comment names it, or with
//! the reason from `exceptions.toml`. An item that has neither fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use serde::Deserialize;

const REQUIREMENTS: &str = "docs/spec/requirements.md";
const EXCEPTIONS: &str = "tests/service/exceptions.toml";
const PAGE: &str = "docs/conformance.md";
/// Where each item in force has a black-box test, if it can be observed from outside.
const HERE: &str = "tests/service/";
const FOLDERS: [&str; 8] = ["conformance", "core", "outbound", "platform", "src", "store", "tests", "verifier"];

#[test]
fn every_item_has_a_test_or_a_reason() {
    let problems = Listing::read().problems();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// With `WRIT_CONFORMANCE=write` the page is generated.
#[test]
fn the_page_is_as_generated() {
    let page = Listing::read().page();
    if std::env::var("WRIT_CONFORMANCE").is_ok_and(|value| value == "write") {
        fs::write(root().join(PAGE), page).unwrap();
        return;
    }
    assert!(read(PAGE) == page, "{PAGE} is not up to date: generate it with `make conformance`");
}

/// The number of an item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Number {
    area: String,
    number: u8,
}

struct Item {
    number: Number,
    level: String,
}

struct Area {
    title: String,
    items: Vec<Item>,
}

/// A test that names items.
struct Test {
    /// From the root of the repository.
    file: String,
    name: String,
    items: BTreeSet<Number>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Met,
    Different,
    Later,
}

/// What the tests alone do not say about an item.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    state: State,
    why: String,
    #[serde(default)]
    partly: bool,
}

struct Listing {
    areas: Vec<Area>,
    tests: Vec<Test>,
    /// By the number of the item, as written.
    exceptions: BTreeMap<String, Exception>,
}

impl Listing {
    fn read() -> Self {
        let mut tests = Vec::new();
        for folder in FOLDERS {
            read_tests(&root().join(folder), &mut tests);
        }
        Self::new(&read(REQUIREMENTS), tests, &read(EXCEPTIONS))
    }

    fn new(requirements: &str, mut tests: Vec<Test>, exceptions: &str) -> Self {
        // Black-box tests come first.
        tests.sort_by_key(|test| (!test.file.starts_with(HERE), test.file.clone()));
        let exceptions = toml::from_str(exceptions).unwrap_or_else(|error| panic!("{EXCEPTIONS}: {error}"));
        Self { areas: areas(requirements), tests, exceptions }
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.areas.iter().flat_map(|area| &area.items)
    }

    fn tests_of(&self, item: &Item) -> Vec<&Test> {
        self.tests.iter().filter(|test| test.items.contains(&item.number)).collect()
    }

    fn exception_of(&self, item: &Item) -> Option<&Exception> {
        self.exceptions.get(&item.number.to_string())
    }

    /// `None` for an item with neither a test nor a reason.
    fn state_of(&self, item: &Item) -> Option<State> {
        match self.exception_of(item) {
            Some(exception) => Some(exception.state),
            None => (!self.tests_of(item).is_empty()).then_some(State::Met),
        }
    }

    fn is_in_part(&self, item: &Item) -> bool {
        self.exception_of(item).is_some_and(|exception| exception.partly)
    }

    fn problems(&self) -> Vec<String> {
        let known: BTreeSet<&Number> = self.items().map(|item| &item.number).collect();
        let names: BTreeSet<String> = known.iter().map(ToString::to_string).collect();
        let mut problems = Vec::new();
        for Test { file, name, items } in &self.tests {
            let unknown = items.iter().filter(|number| !known.contains(number));
            problems.extend(unknown.map(|number| format!("{file}: {name} names {number}, which does not exist")));
        }
        for name in self.exceptions.keys().filter(|name| !names.contains(*name)) {
            problems.push(format!("{EXCEPTIONS}: {name} is no item of {REQUIREMENTS}"));
        }
        problems.extend(self.items().filter_map(|item| {
            let problem = self.problem_with(item)?;
            Some(format!("{}: {problem}", item.number))
        }));
        problems
    }

    fn problem_with(&self, item: &Item) -> Option<&'static str> {
        let tests = self.tests_of(item);
        let Some(exception) = self.exception_of(item) else {
            if tests.is_empty() {
                return Some(
                    "neither a test nor a reason; name it in the doc comment of a test, or give a reason in exceptions.toml",
                );
            }
            let is_here = tests.iter().any(|test| test.file.starts_with(HERE));
            return (!is_here).then_some("no test in tests/service/; write one, or give a reason with state = \"met\"");
        };
        if exception.why.trim().is_empty() {
            return Some("the exception has no why");
        }
        if exception.partly && tests.is_empty() {
            return Some("declared as met in part, but no test names it");
        }
        if exception.state == State::Later && !exception.partly && !tests.is_empty() {
            return Some("declared as later, but a test names it; if a part is met, add partly = true");
        }
        None
    }

    fn page(&self) -> String {
        let mut page = PREFACE.to_owned();
        page += "| level | items | met | different | later |\n| --- | --- | --- | --- | --- |\n";
        for level in ["MUST", "SHOULD", "MAY"] {
            self.count(&mut page, level, |item| item.level == level);
        }
        self.count(&mut page, "all", |_| true);
        for area in &self.areas {
            write!(page, "\n## {}\n\n", area.title).unwrap();
            page += "| item | level | state | tests | reason |\n| --- | --- | --- | --- | --- |\n";
            for item in &area.items {
                let state = self.state_of(item).map_or("**open**", State::word);
                let part = if self.is_in_part(item) { " in part" } else { "" };
                let why = self.exception_of(item).map_or("", |exception| exception.why.trim()).replace('|', "\\|");
                let tests = links(&self.tests_of(item));
                writeln!(page, "| {} | {} | {state}{part} | {tests} | {why} |", item.number, item.level).unwrap();
            }
        }
        page
    }

    /// A line of the summary.
    fn count(&self, page: &mut String, title: &str, is_counted: impl Fn(&Item) -> bool) {
        let items: Vec<&Item> = self.items().filter(|item| is_counted(item)).collect();
        write!(page, "| {title} | {} |", items.len()).unwrap();
        for state in [State::Met, State::Different, State::Later] {
            let such: Vec<&&Item> = items.iter().filter(|item| self.state_of(item) == Some(state)).collect();
            let in_part = such.iter().filter(|item| self.is_in_part(item)).count();
            match in_part {
                0 => write!(page, " {} |", such.len()).unwrap(),
                _ => write!(page, " {}, {in_part} of them in part |", such.len()).unwrap(),
            }
        }
        page.push('\n');
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Different => "different",
            Self::Later => "later",
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "R-{}-{:02}", self.area, self.number)
    }
}

const PREFACE: &str = "\
# Conformance

Which tests prove which item of [the requirements](spec/requirements.md). `make conformance` generates
this page from the doc comments of the tests and from
[the exceptions](../tests/service/exceptions.toml); a test fails when it is not up to date.

- **met**: as required; the tests prove it, or the reason says where it is shown.
- **different**: [the reference](reference/README.md) chose otherwise; the tests prove that choice.
- **later**: not built.
- *in part*: everything that the reason does not name is met.

Reasons cite sections of the reference as [CONTRACT n](reference/README.md#sections-of-the-contract).

";

/// The tests, those of one file together.
fn links(tests: &[&Test]) -> String {
    let files = tests.chunk_by(|one, other| one.file == other.file);
    let lines = files.map(|tests| {
        let file = &tests[0].file;
        let names: Vec<String> = tests.iter().map(|test| format!("`{}`", test.name)).collect();
        format!("[{file}](../{file}) {}", names.join(", "))
    });
    lines.collect::<Vec<_>>().join("<br>")
}

/// The areas of the requirements that have items.
fn areas(requirements: &str) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    for line in requirements.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let title = heading.split_once(". ").map_or(heading, |(_, title)| title);
            areas.push(Area { title: title.to_owned(), items: Vec::new() });
        } else if let Some((number, rest)) = line.strip_prefix("- ").and_then(split_number) {
            let level = rest.split(" | ").nth(1).unwrap_or_else(|| panic!("{REQUIREMENTS}: {number} has no level"));
            let area = areas.last_mut().unwrap_or_else(|| panic!("{REQUIREMENTS}: {number} comes before any area"));
            area.items.push(Item { number, level: level.to_owned() });
        }
    }
    areas.retain(|area| !area.items.is_empty());
    areas
}

fn read_tests(folder: &Path, tests: &mut Vec<Test>) {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_tests(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root()).unwrap().to_str().unwrap();
            tests.extend(tests_in(file, &fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The tests in a source that run by themselves and whose doc comment names items.
fn tests_in(file: &str, source: &str) -> Vec<Test> {
    let mut found = Vec::new();
    let mut doc = String::new();
    let mut attributes = String::new();
    for line in source.lines().map(str::trim) {
        let is_open = attributes.matches('[').count() > attributes.matches(']').count();
        if is_open || line.starts_with("#[") {
            attributes += line;
            continue;
        }
        if let Some(text) = line.strip_prefix("///") {
            doc += text;
            continue;
        }
        let is_test = attributes.contains("#[test]") || attributes.contains("#[tokio::test");
        let items = numbers_in(&doc);
        if let Some(name) = function(line)
            && is_test
            && !attributes.contains("#[ignore")
            && !items.is_empty()
        {
            found.push(Test { file: file.to_owned(), name: name.to_owned(), items });
        }
        doc.clear();
        attributes.clear();
    }
    found
}

/// The name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
    line.split(['(', '<']).next()
}

/// Every number that a text names; from one to another with `R-SUBJ-19 to R-SUBJ-25` or `R-INTRO-01..04`.
fn numbers_in(text: &str) -> BTreeSet<Number> {
    let mut found = BTreeSet::new();
    let mut left = text;
    while let Some(at) = left.find("R-") {
        left = &left[at..];
        let Some((first, rest)) = split_number(left) else {
            left = &left[2..];
            continue;
        };
        let last = last_of_range(rest).unwrap_or(first.number);
        found.extend((first.number..=last).map(|number| Number { area: first.area.clone(), number }));
        left = rest;
    }
    found
}

/// The number that a text begins with, and what follows it.
fn split_number(text: &str) -> Option<(Number, &str)> {
    let (area, rest) = text.strip_prefix("R-")?.split_once('-')?;
    let is_area = !area.is_empty() && area.bytes().all(|byte| byte.is_ascii_uppercase());
    let number = rest.get(..2)?.parse().ok()?;
    is_area.then(|| (Number { area: area.to_owned(), number }, &rest[2..]))
}

fn last_of_range(rest: &str) -> Option<u8> {
    match rest.strip_prefix("..") {
        Some(last) => last.get(..2)?.parse().ok(),
        None => split_number(rest.strip_prefix(" to ")?).map(|(last, _)| last.number),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

const SAMPLE: &str =
    "## 0. Words\n\n## 1. REQ — requests\n\n- R-REQ-01 | MUST | Only | this. | TT\n- R-REQ-02 | MAY | That. | —\n";

fn named(text: &str) -> Vec<String> {
    numbers_in(text).iter().map(ToString::to_string).collect()
}

/// A listing of the sample, where `test` names what its doc says and stands in that file.
fn listing(file: &str, doc: &str, exceptions: &str) -> Listing {
    Listing::new(SAMPLE, tests_in(file, &format!("{doc}\n#[test]\nfn test() {{")), exceptions)
}

#[test]
fn numbers_are_found_alone_and_as_ranges() {
    assert_eq!(named(" A-026, R-REQ-03: why. R-KEYS-12"), ["R-KEYS-12", "R-REQ-03"]);
    assert_eq!(named("R-SUBJ-19 to R-SUBJ-21"), ["R-SUBJ-19", "R-SUBJ-20", "R-SUBJ-21"]);
    assert_eq!(named("R-INTRO-01..03, R-REQ-01"), ["R-INTRO-01", "R-INTRO-02", "R-INTRO-03", "R-REQ-01"]);
    assert_eq!(named("R-, R-X, R-REQ-, R-REQ-x1, r-req-01"), Vec::<String>::new());
}

#[test]
fn only_tests_that_run_and_name_an_item_are_found() {
    let source = [
        "/// R-REQ-01\nfn helper() {",
        "/// A-1\n#[test]\nfn other() {",
        "/// R-REQ-01\n#[test]\n#[ignore = \"a child\"]\nfn child() {",
        "/// R-REQ-01\n\n#[test]\nfn loose() {",
        "/// So it is\n/// (R-REQ-02).\n#[tokio::test]\n#[expect(\nlint\n)]\nasync fn found() {",
        "/// R-REQ-02\n#[test]\npub(crate) fn used_elsewhere() {",
    ];
    let found = tests_in("src/a.rs", &source.join("\n"));
    assert_eq!(found.iter().map(|test| test.name.as_str()).collect::<Vec<_>>(), ["found", "used_elsewhere"]);
    assert_eq!(found[0].items, numbers_in("R-REQ-02"));
}

#[test]
fn what_is_missing_or_contradictory_is_a_problem() {
    let (here, there) = ("tests/service/request.rs", "src/request.rs");
    let second = "[R-REQ-02]\nstate = \"later\"\nwhy = \"x\"\n";
    for (file, doc, exceptions, problem) in [
        (here, "/// R-REQ-01", String::new(), "R-REQ-02: neither a test nor a reason"),
        (there, "/// R-REQ-01", second.to_owned(), "R-REQ-01: no test in tests/service/"),
        (here, "/// R-REQ-01..03", second.to_owned() + "partly = true", "request.rs: test names R-REQ-03"),
        (here, "/// R-REQ-01", second.to_owned() + "[R-REQ-09]\nstate = \"later\"\nwhy = \"x\"", "R-REQ-09 is no item"),
        (
            here,
            "/// R-REQ-01",
            "[R-REQ-02]\nstate = \"different\"\nwhy = \" \"".to_owned(),
            "R-REQ-02: the exception has no why",
        ),
        (here, "/// R-REQ-01", second.to_owned() + "partly = true", "R-REQ-02: declared as met in part"),
        (here, "/// R-REQ-01, R-REQ-02", second.to_owned(), "R-REQ-02: declared as later, but a test names it"),
    ] {
        let problems = listing(file, doc, &exceptions).problems();
        assert!(matches!(&problems[..], [one] if one.contains(problem)), "{problem}: {problems:?}");
    }
    let excused = second.to_owned() + "[R-REQ-01]\nstate = \"met\"\nwhy = \"x\"";
    assert_eq!(listing(there, "/// R-REQ-01", &excused).problems(), Vec::<String>::new());
    assert_eq!(listing(here, "/// R-REQ-01", second).problems(), Vec::<String>::new());
}

#[test]
fn the_page_counts_and_links() {
    let exceptions = "[R-REQ-02]\nstate = \"later\"\nwhy = \"a | b\"\npartly = true";
    let page = listing("tests/service/request.rs", "/// R-REQ-01, R-REQ-02", exceptions).page();
    let link = "[tests/service/request.rs](../tests/service/request.rs) `test`";
    for line in [
        "| MAY | 1 | 0 | 0 | 1, 1 of them in part |".to_owned(),
        "| all | 2 | 1 | 0 | 1, 1 of them in part |".to_owned(),
        "## REQ — requests".to_owned(),
        format!("| R-REQ-01 | MUST | met | {link} |  |"),
        format!("| R-REQ-02 | MAY | later in part | {link} | a \\| b |"),
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is missing: {page}");
    }
}
