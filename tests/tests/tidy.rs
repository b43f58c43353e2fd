//! What the compiler does not hold: which module may know which, how long a file may be, and what must not stay in code.

use std::fs;
use std::path::{Path, PathBuf};

/// Look for the second thing inside a longer file.
const FILE_LINES_MAX: usize = 800;

/// Modules of the gateway, lowest first: each may use those before it.
const GATEWAY_LAYERS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("net", &[]),
    ("sql", &["wire"]),
    ("catalog", &["wire", "sql"]),
    ("plan", &["wire", "sql", "catalog"]),
    ("merge", &["wire", "plan"]),
    ("pool", &["wire", "net", "config"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                rust_files(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for part in ["proto", "topology", "tls", "gateway", "shardctl", "tests", "fuzz"] {
        rust_files(&root().join(part), &mut files);
    }
    assert!(files.len() > 20, "only {} source files found: is the test looking in the right place?", files.len());
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file can be read");
            (path.strip_prefix(root()).expect("below the root").to_path_buf(), text)
        })
        .collect()
}

fn is_test(path: &Path, line_number: usize, text: &str) -> bool {
    let name = path.to_string_lossy();
    name.starts_with("tests/")
        || name.ends_with("tests.rs")
        || name.contains("/tests/")
        || name.ends_with("golden.rs")
        || name.contains("_test")
        || text
            .lines()
            .take(line_number)
            .zip(text.lines().skip(1))
            .any(|(a, b)| a.trim() == "#[cfg(test)]" && b.trim_start().starts_with("mod "))
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| text.lines().count() > FILE_LINES_MAX)
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(long.is_empty(), "files over {FILE_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn nothing_is_left_undone() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!("), concat!("#[ig", "nore")];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            if marks.iter().any(|mark| code.contains(mark)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
            if code.contains(".unwrap()") && !is_test(&path, number, &text) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn modules_know_only_those_below_them() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let name = path.to_string_lossy().into_owned();
        for (layer, below) in GATEWAY_LAYERS {
            let file = format!("gateway/src/{layer}.rs");
            let folder = format!("gateway/src/{layer}/");
            if name != file && !name.starts_with(&folder) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or(line);
                for piece in code.split("crate::").skip(1) {
                    let module: String = piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if !module.is_empty() && module != *layer && !below.contains(&module.as_str()) {
                        found.push(format!("{}:{}: {layer} must not know {module}", path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn crates_keep_their_distance() {
    let forbidden = [
        ("gateway/", "shardctl::"),
        ("shardctl/", "ringway_gateway"),
        ("topology/", "tokio_postgres"),
        ("proto/", "ringway_topology"),
        ("tls/", "tokio"),
    ];
    let mut found = Vec::new();
    for (path, text) in sources() {
        let name = path.to_string_lossy().into_owned();
        for (folder, word) in forbidden {
            if name.starts_with(folder) && text.lines().any(|l| l.split("//").next().unwrap_or(l).contains(word)) {
                found.push(format!("{name} mentions {word}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
