//! Dependencies point down: holds the sources to the order of modules in `lib.rs`, and SQL and sockets to their homes.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// What `call` may see: the call is a plain value.
const CALL_SEES: [&str; 4] = ["ids", "clock", "audio", "wire"];
/// Where SQL may be written.
const SQL_HOMES: [&str; 2] = ["store", "lifecycle"];
/// Where sockets may be opened or served.
const SOCKET_HOMES: [&str; 7] = ["bridge", "api", "app", "simulate", "clients", "rpc", "bench"];

/// One file of the library.
struct Source {
    path: String,
    /// Its module path below the crate root, such as `["call", "turns"]`.
    module: Vec<String>,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let mut module: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        Self { path: path.to_owned(), module, text: text.to_owned() }
    }
}

#[test]
fn modules_use_only_modules_listed_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = module_order(&fs::read_to_string(root.join("lib.rs")).unwrap());
    let sources = read_sources(&root);
    assert!(order.len() >= 10, "lib.rs lists the modules: {order:?}");
    assert!(sources.len() >= order.len(), "every module has a file");
    let found: Vec<String> = sources.iter().flat_map(|source| offences(&order, source)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_order_is_read_from_lib_rs() {
    let text =
        "//! Doc with pub mod nothing;\npub mod ids;\n// pub mod gone;\npub mod clock;\nmod private;\n";
    assert_eq!(module_order(text), ["ids", "clock", "private"]);
}

#[test]
fn a_use_of_a_higher_module_is_found() {
    for text in [
        "use crate::store::Store;",
        "use crate::{ids::CallSid, store::{agents, calls}};",
        "fn f() { let x = crate::store::open(); }",
        "use super::super::store::Store;",
    ] {
        let found = check("audio/g711.rs", text);
        assert_eq!(found, ["audio/g711.rs: audio must not use store, which lib.rs lists later"], "{text}");
    }
    assert_eq!(
        check("audio/g711.rs", "use crate::ids::CallSid; use super::level; use crate::audio::x;").len(),
        0
    );
}

#[test]
fn what_comments_and_texts_say_does_not_count() {
    let text = r##"
        //! See crate::store and sqlx::query.
        /* crate::store /* nested */ crate::api */
        const A: &str = "crate::store";
        const B: &str = r#"sqlx::query("x") tokio::net"#;
        const C: char = '"';
        fn f<'a>(x: &'a str) -> &'a str { x }
    "##;
    assert_eq!(check("audio/g711.rs", text), Vec::<String>::new());
    assert_eq!(check("audio/g711.rs", &format!("{text} use crate::store::X;")).len(), 1);
}

#[test]
fn the_call_sees_no_driver() {
    assert_eq!(check("call/mod.rs", "use crate::wire::model::X; use crate::clock::CallTime;").len(), 0);
    assert_eq!(
        check("call/turns.rs", "use crate::telemetry::Metrics;"),
        ["call/turns.rs: call must see only ids, clock, audio, wire, not telemetry"]
    );
    assert_eq!(check("call/timers.rs", "use tokio::time::sleep;").len(), 1);
}

#[test]
fn sql_and_sockets_stay_at_home() {
    let sql = "async fn f() { sqlx::query!(\"select 1\"); }";
    assert_eq!(check("store/calls.rs", sql).len(), 0);
    assert_eq!(check("api/leads.rs", sql), ["api/leads.rs: SQL belongs in store, lifecycle"]);
    assert_eq!(check("api/leads_tests.rs", sql).len(), 0);
    assert_eq!(check("api/leads.rs", "use sqlx::{query_as, PgPool};").len(), 1);
    assert_eq!(check("api/error.rs", "fn f(e: sqlx::Error) {}").len(), 0);

    let socket = "use tokio::{net::TcpStream, sync::mpsc};";
    assert_eq!(check("bridge/mod.rs", socket).len(), 0);
    assert_eq!(check("store/mod.rs", socket).len(), 1);
    assert_eq!(check("lifecycle.rs", "fn f() { tokio_tungstenite::connect_async(u); }").len(), 1);
}

fn check(path: &str, text: &str) -> Vec<String> {
    let order = [
        "ids",
        "clock",
        "telemetry",
        "audio",
        "wire",
        "call",
        "simulate",
        "store",
        "lifecycle",
        "bridge",
        "api",
    ];
    offences(&order.map(str::to_owned), &Source::new(path, text))
}

/// What one file does against the rules, as sentences.
fn offences(order: &[String], source: &Source) -> Vec<String> {
    let own = source.module[0].as_str();
    let place = |name: &str| order.iter().position(|listed| listed == name);
    let Some(own_place) = place(own) else {
        return vec![format!("{}: lib.rs does not list {own}", source.path)];
    };
    let mut found = Vec::new();
    for path in paths(&tokens(&source.text)) {
        if let Some(used) = used_module(&path, source.module.len(), order)
            && used != own
        {
            if place(used).is_none_or(|used_place| used_place > own_place) {
                found.push(format!("{}: {own} must not use {used}, which lib.rs lists later", source.path));
            } else if own == "call" && !CALL_SEES.contains(&used) {
                let sees = CALL_SEES.join(", ");
                found.push(format!("{}: call must see only {sees}, not {used}", source.path));
            }
        }
        let starts =
            |wanted: &[&str]| path.iter().zip(wanted).filter(|(a, b)| a == b).count() == wanted.len();
        let sql =
            path[0] == "sqlx" && path.get(1).is_some_and(|name| name.to_lowercase().starts_with("query"));
        // Tests in a file of their own may look into the database.
        if sql && !SQL_HOMES.contains(&own) && !source.path.ends_with("_tests.rs") {
            found.push(format!("{}: SQL belongs in {}", source.path, SQL_HOMES.join(", ")));
        }
        let socket = starts(&["tokio", "net"]) || starts(&["tokio_tungstenite"]);
        if socket && !SOCKET_HOMES.contains(&own) {
            found.push(format!("{}: sockets belong in {}", source.path, SOCKET_HOMES.join(", ")));
        }
        if own == "call" && (path[0] == "tokio" || path[0] == "sqlx" || starts(&["std", "net"])) {
            found.push(format!(
                "{}: a call never waits or touches a socket, so no {}",
                source.path,
                path.join("::")
            ));
        }
    }
    found.dedup();
    found
}

/// The top-level module a path names, through `crate` or enough `super`s.
fn used_module<'a>(path: &'a [String], depth: usize, order: &[String]) -> Option<&'a str> {
    if path[0] == "crate" {
        // `crate::Name` of lib.rs itself is nobody's module.
        return path.get(1).map(String::as_str).filter(|name| name.starts_with(char::is_lowercase));
    }
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    // Inside an inline `mod tests` one more `super` is needed, so only names of modules count.
    let name = path.get(supers)?;
    (supers >= depth && order.contains(name)).then_some(name.as_str())
}

/// The modules in the order `lib.rs` lists them.
fn module_order(lib: &str) -> Vec<String> {
    let tokens = tokens(lib);
    tokens.windows(3).filter(|w| w[0] == "mod" && w[2] == ";").map(|w| w[1].clone()).collect()
}

/// Every path with `::` in it, groups written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = is_name(&tokens[at]) && tokens.get(at + 1).is_some_and(|token| token == "::");
        if begins && (at == 0 || tokens[at - 1] != "::") {
            at = read_path(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

fn read_path(tokens: &[String], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        if token == "{" && !path.is_empty() {
            at += 1;
            while tokens.get(at).is_some_and(|token| token != "}") {
                if tokens[at] == "," {
                    at += 1;
                } else {
                    at = read_path(tokens, at, &path, found).max(at + 1);
                }
            }
            return at + 1;
        }
        if !is_name(token) {
            break;
        }
        path.push(token.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    found.push(path);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single characters; without comments, texts and characters in quotes.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let rest = &chars[at..];
        let starts = |wanted: &str| rest.iter().take(wanted.len()).copied().eq(wanted.chars());
        if starts("//") {
            at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        } else if starts("/*") {
            at += block_comment(rest);
        } else if let Some(hashes) = raw_string_hashes(rest) {
            at += raw_string(rest, hashes);
        } else if chars[at] == '"' {
            at += quoted(rest, '"');
        } else if chars[at] == '\'' {
            // A lifetime is a quote without a closing one right after its first character.
            let is_char = rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'');
            at += if is_char { quoted(rest, '\'') } else { 1 };
        } else if starts("::") {
            found.push("::".to_owned());
            at += 2;
        } else if chars[at].is_alphanumeric() || chars[at] == '_' {
            let length = rest.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(rest.len());
            found.push(rest[..length].iter().collect());
            at += length;
        } else {
            if !chars[at].is_whitespace() {
                found.push(chars[at].to_string());
            }
            at += 1;
        }
    }
    found
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_hashes(rest: &[char]) -> Option<usize> {
    let prefix = if rest.starts_with(&['b', 'r']) { 2 } else { usize::from(rest.first() == Some(&'r')) };
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    (prefix > 0 && rest.get(prefix + hashes) == Some(&'"')).then_some(hashes)
}

fn raw_string(rest: &[char], hashes: usize) -> usize {
    let opening = rest.iter().position(|c| *c == '"').unwrap_or(0) + 1;
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length =
        rest[opening..].windows(closing.len()).position(|w| w == closing).unwrap_or(rest.len() - opening);
    opening + length + closing.len()
}

fn read_sources(root: &Path) -> Vec<Source> {
    let (mut folders, mut sources) = (vec![root.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let is_rust = path.extension().is_some_and(|extension| extension == "rs");
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            if is_rust && name != "lib.rs" && name != "main.rs" {
                sources.push(Source::new(&name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources
}
