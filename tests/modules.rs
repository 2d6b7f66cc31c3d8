//! The arrows between modules run one way, and each library that must stay at an edge stays there.
//!
//! Crates keep their order by themselves. Within a crate this reads the `use` lines and paths of each file, tests left
//! out: on every level of the module tree, no two neighbours may need each other, not even by way of others. A module
//! and those inside it count as one there.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The crates of the workspace by folder; the root package is `.`.
const CRATES: [&str; 8] = [".", "conformance", "core", "model", "outbound", "platform", "store", "verifier"];

/// Libraries, and where alone they may be named.
const EDGES: [(&[&str], &[&str]); 5] = [
    (&["actix_http", "actix_rt", "actix_server", "actix_service", "actix_web"], &["src/server"]),
    (
        &["rustls", "tokio_rustls", "webpki"],
        &["src/server", "outbound/src", "verifier/src", "conformance/src", "store/src/postgres"],
    ),
    (&["tokio_postgres"], &["store/src/postgres"]),
    (&["toml"], &["src/config"]),
    (&["sled"], &["store/src/embedded"]),
];

type Module = Vec<String>;

/// A module needs another, as this path of its source says.
struct Import {
    from: Module,
    path: Module,
    file: PathBuf,
}

#[test]
fn no_modules_import_each_other() {
    let cycles: Vec<_> = CRATES.iter().flat_map(|name| cycles(&imports_of(&root().join(name).join("src")))).collect();
    assert!(cycles.is_empty(), "import cycles:\n{}", cycles.join("\n"));
}

#[test]
fn libraries_of_the_edge_stay_there() {
    let mut strays = Vec::new();
    for file in CRATES.iter().flat_map(|name| files(&root().join(name).join("src"))) {
        let place = file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().trim_start_matches("./").to_owned();
        let paths = paths(&code(&fs::read_to_string(&file).unwrap()));
        for (libraries, homes) in EDGES {
            let used = paths.iter().find(|path| libraries.contains(&path[0].as_str()));
            if let Some(path) = used.filter(|_| !homes.iter().any(|home| is_inside(&place, home))) {
                strays.push(format!("{place}: `{}` belongs in {}", path.join("::"), homes.join(", ")));
            }
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}

fn is_inside(place: &str, home: &str) -> bool {
    place.strip_prefix(home).is_some_and(|rest| rest.starts_with('/') || rest.starts_with(".rs"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !is_test {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every path of a crate that leads to another module of it.
fn imports_of(source: &Path) -> Vec<Import> {
    let files = files(source);
    let modules: BTreeMap<PathBuf, Module> = files.iter().map(|file| (file.clone(), module(source, file))).collect();
    let known: BTreeSet<&Module> = modules.values().collect();
    let mut imports = Vec::new();
    for (file, from) in &modules {
        for path in paths(&code(&fs::read_to_string(file).unwrap())) {
            let Some(path) = absolute(from, &path) else { continue };
            let module = (0..=path.len()).rev().map(|end| path[..end].to_vec()).find(|module| known.contains(module));
            imports.extend(module.map(|path| Import { from: from.clone(), path, file: file.clone() }));
        }
    }
    imports
}

/// `src/a/b.rs` is `a::b`; `src/lib.rs` and `src/main.rs` are the root.
fn module(source: &Path, file: &Path) -> Module {
    let path = file.strip_prefix(source).unwrap().with_extension("");
    let names: Module = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names == ["lib"] || names == ["main"] { Vec::new() } else { names }
}

/// A path from the root of the crate; `None` if it leads out of it.
fn absolute(from: &[String], path: &[String]) -> Option<Module> {
    let mut base = from.to_vec();
    let mut rest = path;
    match path[0].as_str() {
        "crate" => base.clear(),
        "self" | "super" => {}
        _ => return None,
    }
    while let Some(first) = rest.first().filter(|first| ["crate", "self", "super"].contains(&first.as_str())) {
        if first == "super" {
            base.pop()?;
        }
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// The cycles among neighbours, each told once with the paths that close it.
fn cycles(imports: &[Import]) -> Vec<String> {
    let mut levels: BTreeMap<Module, BTreeMap<(String, String), String>> = BTreeMap::new();
    for import in imports {
        let shared = import.from.iter().zip(&import.path).take_while(|(one, other)| one == other).count();
        if let (Some(from), Some(to)) = (import.from.get(shared), import.path.get(shared)) {
            let told = format!("  {}: {}", import.file.display(), import.path.join("::"));
            let level = levels.entry(import.from[..shared].to_vec()).or_default();
            level.entry((from.clone(), to.clone())).or_insert(told);
        }
    }
    let mut found = Vec::new();
    for arrows in levels.values() {
        let names: BTreeSet<&String> = arrows.keys().map(|(from, _)| from).collect();
        let reached: BTreeMap<_, _> = names.iter().map(|name| (*name, reachable(arrows, name))).collect();
        let is_tied = |(from, to): &(String, String)| reached.get(to).is_some_and(|far| far.contains(from));
        found.extend(arrows.iter().filter(|(arrow, _)| is_tied(arrow)).map(|(_, told)| told.clone()));
    }
    found
}

fn reachable(arrows: &BTreeMap<(String, String), String>, start: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![start.to_owned()];
    while let Some(name) = open.pop() {
        for (_, to) in arrows.keys().filter(|(from, _)| *from == name) {
            if seen.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    seen
}

/// The source without comments, strings, and what is compiled for tests only.
fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("#[cfg(test)]") || rest.starts_with("#[cfg(any(test,") {
            item_len(rest)
        } else if let Some(len) = string_len(rest) {
            len
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// How long the item is that an attribute stands before: to its `;` or its closing brace.
fn item_len(source: &str) -> usize {
    let (mut depth, mut at) = (0_usize, source.find(']').map_or(source.len(), |end| end + 1));
    while let Some(c) = source[at..].chars().next() {
        if let Some(len) = string_len(&source[at..]) {
            at += len;
            continue;
        }
        if source[at..].starts_with("//") {
            at += source[at..].find('\n').unwrap_or(0).max(1);
            continue;
        }
        at += c.len_utf8();
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at,
            '}' => depth -= 1,
            ';' if depth == 0 => return at,
            _ => {}
        }
    }
    source.len()
}

/// How long the string or character is that the text begins with; `None` if it begins with neither.
fn string_len(source: &str) -> Option<usize> {
    if let Some(raw) = source.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let body = raw[hashes..].strip_prefix('"')?;
        return Some(1 + hashes + 1 + body.find(&end)? + end.len());
    }
    let quote = source.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let mut escaped = false;
    for (at, c) in source.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + 1),
            // A lifetime, and no character.
            _ if quote == '\'' && at > 1 && !source[1..].starts_with('\\') => return None,
            _ => {}
        }
    }
    None
}

/// Every path of two names and more, those of `use` trees one by one.
fn paths(code: &str) -> Vec<Module> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = is_name(&tokens[at]) && tokens.get(at + 1).is_some_and(|next| next == "::");
        at = if begins { tree(&tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

/// Reads a `use` tree, or a plain path, from `at`; returns where it ends.
fn tree(tokens: &[String], mut at: usize, before: &[String], found: &mut Vec<Module>) -> usize {
    let mut path = before.to_vec();
    while let Some(name) = tokens.get(at).filter(|token| is_name(token)) {
        path.push(name.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            found.push(path);
            return at;
        }
        at += 1;
    }
    if tokens.get(at).is_some_and(|token| token == "{") {
        at += 1;
        while tokens.get(at).is_some_and(|token| token != "}") {
            let next = tree(tokens, at, &path, found);
            at = next.max(at + 1);
        }
        return at + 1;
    }
    found.push(path); // a glob, or type parameters
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(c) = rest.chars().next() {
        let len = if c.is_alphanumeric() || c == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        tokens.push(rest[..len].to_owned());
        rest = rest[len..].trim_start();
    }
    tokens
}

#[test]
fn a_cycle_is_found_however_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let found = || cycles(&imports_of(folder.path())).len();
    write("lib.rs", "mod a; mod b; mod c;");
    write("a.rs", "mod inner; // crate::c::X\nuse crate::b::{self, Thing};\nconst TEXT: &str = \"crate::c::X\";");
    write("a/inner.rs", "use super::Own; use super::super::b::Other;");
    write("b.rs", "fn f<'a>(c: char) -> bool { c == '\"' } #[cfg(test)]\nmod tests { use crate::a::Own; }");
    write("c.rs", "pub struct X;");
    assert_eq!(found(), 0);
    write("c.rs", "fn f() { crate::a::inner::go(); }");
    assert_eq!(found(), 0, "one way");
    write("b.rs", "use {crate::c as d, std::fmt};");
    assert_eq!(found(), 3, "a, b and c");
}
