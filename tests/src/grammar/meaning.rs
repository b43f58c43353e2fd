//! What PostgreSQL makes of a statement: its query tree, as `debug_print_parse` shows it, without positions.

use anyhow::{ensure, Context as _, Result};

use crate::scenario::raw::{frame, query, strings, Raw};

/// Fields of a query tree that say where something stands, or how it was written; and those that the gateway leaves out.
const LEFT_OUT: &[&str] = &[
    "location",
    "stmt_location",
    "stmt_len",
    "funcformat",
    // ONLY, OVERRIDING, the strength of locks, GROUP BY DISTINCT.
    "inh",
    "override",
    "strength",
    "rellockmode",
    "groupDistinct",
];
/// `FRAMEOPTION_EXCLUSION`: the bits of EXCLUDE, which the gateway leaves out.
const EXCLUSION: u32 = 0x38000;

/// A connection that asks for query trees.
pub struct Server {
    raw: Raw,
}

impl Server {
    pub async fn connect(port: u16, database: &str) -> Result<Server> {
        let mut raw = Raw::connect(port).await?;
        raw.startup(&[("user", "postgres"), ("database", database)]).await?;
        raw.until_ready().await?;
        for setting in ["SET client_min_messages = log", "SET debug_pretty_print = off", "SET debug_print_parse = on"] {
            raw.send(&query(setting)).await?;
            raw.until_ready().await?;
        }
        Ok(Server { raw })
    }

    /// The statement's query tree, or PostgreSQL's error: SQLSTATE and message.
    pub async fn meaning(&mut self, statement: &str) -> Result<Result<String, (String, String)>> {
        let parse = [strings(&["", statement]), vec![0, 0]].concat();
        self.raw.send(&[frame(b'P', &parse), frame(b'S', &[])].concat()).await?;
        let mut trees = Vec::new();
        let mut failure = None;
        loop {
            let message = self.raw.message().await?.context("the server is gone")?;
            match message.tag {
                b'N' if message.field(b'M').is_some_and(|text| text.starts_with("parse tree")) => {
                    trees.extend(message.field(b'D'));
                }
                b'E' => failure = Some((message.sqlstate(), message.field(b'M').unwrap_or_default())),
                b'Z' => break,
                _ => {}
            }
        }
        if let Some(failure) = failure {
            return Ok(Err(failure));
        }
        ensure!(!trees.is_empty(), "no query tree for {statement}");
        Ok(Ok(plain(&trees.join("\n"))))
    }
}

/// A tree without the fields of [`LEFT_OUT`].
fn plain(tree: &str) -> String {
    // The server breaks lines where they grow long.
    let tree = tree.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = String::with_capacity(tree.len());
    for (number, field) in tree.split(" :").enumerate() {
        let (name, value) = field.split_once(' ').unwrap_or((field, ""));
        if number > 0 && LEFT_OUT.contains(&name) {
            // What closes the node stays.
            out.push_str(value.trim_start_matches(|c: char| !matches!(c, '}' | ')' | ' ')));
            continue;
        }
        out.push_str(" :");
        match (name, value.trim_end_matches(['}', ')']).parse::<u32>()) {
            ("frameOptions", Ok(options)) => {
                let rest = value.trim_start_matches(|c: char| c.is_ascii_digit());
                out.push_str(&format!("frameOptions {}{rest}", options & !EXCLUSION));
            }
            _ => out.push_str(field),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_left_out() {
        let tree =
            "({QUERY :a 1 :inh true :b ({X :c 2 :location 7} {Y :location -1}) :frameOptions 149523 :stmt_len 5})";
        assert_eq!(plain(tree), " :({QUERY :a 1 :b ({X :c 2} {Y}) :frameOptions 18451})");
    }
}
