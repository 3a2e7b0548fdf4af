//! The floors of the house: a file of `src/` imports only lower floors, or its
//! own folder. Rust's modules do not hold this; this test does.
//!
//! Also held here: pure files know no I/O, clock or randomness; only `store/`
//! knows sqlx; every file says what it is, and stays small.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The floor of each first path segment.
const FLOORS: &[(u8, &[&str])] = &[
    // The last three are there in tests only.
    (0, &["proto", "rng", "seeds", "worlds"]),
    (1, &["types", "error", "metrics"]),
    (2, &["store", "net"]),
    (3, &["identity", "client"]),
    (4, &["federation", "push"]),
    (5, &["relay", "chat"]),
    (6, &["pbx"]),
    (7, &["admin"]),
    (8, &["config", "node"]),
    (9, &["cli", "gateway", "bench", "demo", "main"]),
];

/// Imports within one floor that are meant: from, to. Never both ways.
const BESIDE: &[(&str, &str)] = &[
    ("types", "error"),
    ("metrics", "error"),
    ("metrics", "types"),
    ("node", "config"),
    ("main", "cli"),
    ("bench", "demo"),
    ("cli", "bench"),
    ("cli", "demo"),
    ("cli", "gateway"),
];

/// Rules without a driver: `now` and randomness come in as arguments.
const PURE: &[&str] = &[
    "client/backoff.rs",
    "client/seen.rs",
    "gateway/access.rs",
    "gateway/envelope.rs",
    "gateway/ring.rs",
    "gateway/words.rs",
    "federation/delivery.rs",
    "federation/delivery/session.rs",
    "federation/stream.rs",
    "federation/window.rs",
    "net/frames.rs",
    "net/messages.rs",
    "relay/evidence.rs",
    "relay/news.rs",
    "relay/notify/rule.rs",
    "relay/progress.rs",
    "relay/router.rs",
    "relay/router/names.rs",
    "relay/router/quota.rs",
    "relay/router/view.rs",
    "relay/sessions/news.rs",
    "relay/subscriptions.rs",
    "relay/window.rs",
    "chat/content.rs",
    "chat/topic.rs",
    "chat/topic/home.rs",
    "chat/topic/ids.rs",
    "chat/topic/replica.rs",
    "chat/news.rs",
    "push/harmony.rs",
    "push/window.rs",
    "store/relay/chain.rs",
    "types/cursor.rs",
];
const IMPURE: &[&str] = &[
    "tokio",
    "tonic",
    "sqlx",
    "Instant::now",
    "SystemTime",
    "Millis::now",
    "unix_seconds",
    "unix_micros",
    "rand",
    "getrandom",
];

const MAX_LINES: usize = 500;

struct Source {
    /// Below `src/`, with slashes.
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src/ can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    let read = |path: &PathBuf| Source {
        path: path.strip_prefix(&root).expect("below src/").display().to_string(),
        text: fs::read_to_string(path).expect("a source file is UTF-8"),
    };
    paths.iter().map(read).collect()
}

/// The modules a file is, from the crate's root: `cli/mod.rs` → [cli].
fn module(path: &str) -> Vec<&str> {
    let mut segments: Vec<_> = path.trim_end_matches(".rs").split('/').collect();
    if segments.last() == Some(&"mod") {
        segments.pop();
    }
    segments
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// The code alone: comments, strings and character literals become spaces.
fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` if none does.
fn skipped(chars: &[char], at: usize) -> usize {
    let is = |offset: usize, c: char| chars.get(at + offset) == Some(&c);
    let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let find = |from: usize, end: &[char]| {
        (from..chars.len()).find(|i| chars[*i..].starts_with(end)).map_or(chars.len(), |i| i + end.len())
    };
    if is(0, '/') && is(1, '/') {
        // The line's end stays outside.
        (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
    } else if is(0, '/') && is(1, '*') {
        find(at + 2, &['*', '/'])
    } else if is(0, 'r') && !inside_word && (is(1, '"') || is(1, '#')) {
        let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
        if !is(1 + hashes, '"') {
            return at; // a raw identifier
        }
        let mut end = vec!['"'];
        end.extend(std::iter::repeat_n('#', hashes));
        find(at + 2 + hashes, &end)
    } else if is(0, '"') {
        let mut i = at + 1;
        while i < chars.len() && chars[i] != '"' {
            i += if chars[i] == '\\' { 2 } else { 1 };
        }
        (i + 1).min(chars.len())
    } else if is(0, '\'') && is(1, '\\') {
        find(at + 3, &['\''])
    } else if is(0, '\'') && is(2, '\'') {
        at + 3
    } else {
        at
    }
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Byte offsets at which `needle` stands as words of its own.
fn occurrences(code: &str, needle: &str) -> Vec<usize> {
    let free = |at: usize| {
        let before = code[..at].chars().next_back().is_none_or(|c| !word(c));
        let after = code[at + needle.len()..].chars().next().is_none_or(|c| !word(c) || needle.ends_with(':'));
        before && after
    };
    code.match_indices(needle).map(|(at, _)| at).filter(|at| free(*at)).collect()
}

/// The first segments named by what follows a `::`, one or a `{group}`.
fn heads(rest: &str) -> Vec<String> {
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![rest.chars().take_while(|c| word(*c)).collect()];
    };
    let (mut depth, mut found, mut item) = (0_i32, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => found.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    found.push(item);
    let head = |item: &String| item.trim().chars().take_while(|c| word(*c)).collect::<String>();
    found.iter().map(head).filter(|head| !head.is_empty()).collect()
}

/// The crate's top modules that a file names, through `crate::`, `super::`
/// as far as the root, or the library's own name in the binary.
fn imports(path: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "pillarbox::"] {
        // In the library `pillarbox` is the proto package of that name.
        if root == "crate::" || path == "main.rs" {
            found.extend(occurrences(code, root).iter().flat_map(|at| heads(&code[at + root.len()..])));
        }
    }
    let depth = module(path).len();
    for at in occurrences(code, "super::") {
        if code[..at].ends_with("super::") {
            continue; // a part of a chain that was counted from its beginning
        }
        let mut rest = &code[at..];
        let mut ups = 0;
        while let Some(after) = rest.strip_prefix("super::") {
            ups += 1;
            rest = after;
        }
        if ups >= depth {
            found.extend(heads(rest));
        }
    }
    found
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, names)| names.contains(&name)).map(|(floor, _)| *floor)
}

/// Why a file's imports break the rule; empty if they do not.
fn broken(path: &str, text: &str) -> Vec<String> {
    let own = module(path)[0];
    let Some(from) = floor(own) else {
        return vec![format!("{path}: {own} has no floor; give it one in tests/floors.rs")];
    };
    let mut faults = Vec::new();
    for name in imports(path, &code(text)) {
        let Some(to) = floor(&name) else {
            // `super::{self, Name}` and the like name no module.
            if name.starts_with(char::is_lowercase) && name != "self" && name != "super" {
                faults.push(format!("{path}: {name} has no floor; give it one in tests/floors.rs"));
            }
            continue;
        };
        let beside = BESIDE.contains(&(own, name.as_str()));
        if name != own && to >= from && !beside {
            faults.push(format!("{path} (floor {from}) imports {name} (floor {to})"));
        }
    }
    faults
}

#[test]
fn a_file_imports_only_lower_floors() {
    let files = sources();
    assert!(files.iter().any(|file| file.path == "node.rs"), "src/ was not found");
    let faults: Vec<_> =
        files.iter().filter(|file| file.path != "lib.rs").flat_map(|file| broken(&file.path, &file.text)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn an_upward_import_would_be_caught() {
    let table: &[(&str, &str, bool)] = &[
        ("store/outbox.rs", "use crate::types::PeerId;", true),
        ("store/outbox.rs", "use crate::store::writer::Op;", true),
        ("store/outbox.rs", "use super::writer::Op;", true),
        ("store/outbox.rs", "use crate::net::tls;", false),
        ("net/mod.rs", "use crate::store::Store;", false),
        ("net/mod.rs", "use super::store::Store;", false),
        ("net/tls.rs", "use super::super::{error::Error, identity};", false),
        ("net/tls.rs", "use crate::{error::Error, identity::{Key, Token}};", false),
        ("net/tls.rs", "use crate::{error::{self, Error},\n    federation};", false),
        ("net/tls.rs", "fn f() { crate::node::start() }", false),
        ("relay/mod.rs", "use crate::chat::Chat;", false),
        ("chat/mod.rs", "use crate::relay::Relay;", false),
        ("federation/mod.rs", "use crate::push::Push;", false),
        ("push.rs", "use crate::federation::Federation;", false),
        ("client/mod.rs", "use crate::{net, types, proto};", true),
        ("client/mod.rs", "use crate::identity::Key;", false),
        ("client/mod.rs", "use crate::federation::Config;", false),
        ("types.rs", "use crate::error::Error;", true),
        ("error.rs", "use crate::types::Millis;", false),
        ("node.rs", "use crate::{config::Config, admin, pbx, chat};", true),
        ("config.rs", "use crate::node::Node;", false),
        ("config.rs", "use ::config::Config; use crate::federation;", true),
        ("cli/mod.rs", "use crate::node::Node; use super::super::config;", true),
        ("cli/mod.rs", "use super::Failure;", true),
        ("main.rs", "fn main() { pillarbox::cli::run() }", true),
        ("net/a.rs", "use crate::proto::pillarbox::admin::v1 as admin;", true),
        ("net/a.rs", "// crate::node\n/* crate::node */ /// [`crate::node`]\nconst A: &str = \"crate::node\";", true),
        ("net/a.rs", "const A: &str = \"//\"; use crate::node::Node;", false),
        ("net/a.rs", "const A: char = '\"'; use crate::node::Node;", false),
        ("net/a.rs", "fn f<'a>(x: &'a str) {} use crate::node::Node;", false),
        ("net/a.rs", "const A: &str = r#\"\"crate::node\"#; use crate::types::PeerId;", true),
        ("net/a.rs", "use crate::newcomer::Thing;", false),
        ("newcomer.rs", "", false),
    ];
    for (path, text, good) in table {
        let faults = broken(path, text);
        assert_eq!(faults.is_empty(), *good, "{path}: {text}: {faults:?}");
    }
}

#[test]
fn beside_goes_one_way_and_stays_on_its_floor() {
    for (from, to) in BESIDE {
        assert_eq!(floor(from), floor(to), "{from} and {to} stand on different floors");
        assert!(!BESIDE.contains(&(to, from)), "{from} and {to} import each other");
    }
}

/// What a pure file must not mention, of what it does.
fn impure(text: &str) -> Vec<&'static str> {
    let code = code(text);
    IMPURE.iter().copied().filter(|name| !occurrences(&code, name).is_empty()).collect()
}

#[test]
fn a_pure_file_knows_no_runtime_clock_or_randomness() {
    for file in sources().iter().filter(|file| PURE.contains(&file.path.as_str())) {
        assert_eq!(impure(&file.text), Vec::<&str>::new(), "{}", file.path);
    }
    assert_eq!(impure("use std::time::Instant; fn f(now: Instant) -> Brand { operand(now) }"), Vec::<&str>::new());
    assert_eq!(impure("let now = Instant::now();"), ["Instant::now"]);
    assert_eq!(impure("use tokio::time::Instant;"), ["tokio"]);
}

#[test]
fn only_the_store_knows_sqlx() {
    for file in sources().iter().filter(|file| !file.path.starts_with("store/")) {
        assert!(occurrences(&code(&file.text), "sqlx").is_empty(), "{} mentions sqlx", file.path);
    }
}

#[test]
fn the_store_knows_no_wire_type() {
    for file in sources().iter().filter(|file| file.path.starts_with("store/")) {
        let code = code(&file.text);
        for name in ["prost", "tonic"] {
            assert!(occurrences(&code, name).is_empty(), "{} mentions {name}", file.path);
        }
        assert!(!imports(&file.path, &code).contains(&"proto".to_owned()), "{} imports proto", file.path);
    }
}

#[test]
fn every_file_begins_with_what_it_is() {
    for file in sources() {
        let header = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!((1..=15).contains(&header), "{}: a header of {header} lines, it has 1 to 15", file.path);
    }
}

#[test]
fn no_file_is_longer_than_500_lines() {
    for file in sources().iter().filter(|file| !is_test(&file.path)) {
        let lines = file.text.lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines; split it by what it does", file.path);
    }
}
