//! What EXPLAIN says, as lines of text or as one JSON document. The plans of shards stand in it as they came.

use std::fmt::Write as _;

/// Where the members of a shard's JSON stand.
const THEIR_DEPTH: usize = 4;

/// A part of the report: of the whole statement, of a fragment, of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Its first line; empty for the whole.
    pub title: String,
    /// What JSON says of it instead of a title.
    pub kind: &'static str,
    pub items: Vec<(String, Value)>,
    /// What a shard has answered, in the report's format.
    pub plan: Option<String>,
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    List(Vec<String>),
    Count(u64),
    Milliseconds(f64),
    /// In the title already: only JSON shows it.
    Titled(String),
}

impl Node {
    pub fn item(&mut self, label: impl Into<String>, value: Value) {
        self.items.push((label.into(), value));
    }

    pub fn text(&mut self, label: impl Into<String>, value: impl Into<String>) {
        self.item(label, Value::Text(value.into()));
    }

    /// One line of EXPLAIN's answer each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.write_lines(0, &mut lines);
        lines
    }

    fn write_lines(&self, depth: usize, lines: &mut Vec<String>) {
        let mut depth = depth;
        if !self.title.is_empty() {
            lines.push(format!("{:depth$}{}", "", self.title));
            depth += 2;
        }
        for (label, value) in &self.items {
            let value = match value {
                Value::Text(text) => text.clone(),
                Value::List(list) => list.join(", "),
                Value::Count(count) => count.to_string(),
                Value::Milliseconds(time) => format!("{time:.3} ms"),
                Value::Titled(_) => continue,
            };
            lines.push(format!("{:depth$}{label}: {value}", ""));
        }
        lines.extend(self.plan.iter().flat_map(|plan| plan.lines()).map(|line| format!("{:depth$}{line}", "")));
        self.nodes.iter().for_each(|node| node.write_lines(depth, lines));
    }

    /// `whole`: beside the plan, for example the time of all of it.
    pub fn json(&self, whole: &[(String, Value)]) -> String {
        let mut out = String::from("[\n  {\n    \"Plan\": ");
        self.write_json(4, &mut out);
        for (label, value) in whole {
            let _ = write!(out, ",\n    {}: {}", quoted(label), value.json());
        }
        out.push_str("\n  }\n]");
        out
    }

    fn write_json(&self, depth: usize, out: &mut String) {
        let inner = depth + 2;
        let _ = write!(out, "{{\n{:inner$}\"Node Type\": {}", "", quoted(self.kind));
        for (label, value) in &self.items {
            let _ = write!(out, ",\n{:inner$}{}: {}", "", quoted(label), value.json());
        }
        let theirs = self.plan.as_deref().map(Answer::of);
        for member in theirs.iter().flat_map(|answer| &answer.members) {
            let _ = write!(out, ",\n{:inner$}{}", "", moved(member, inner));
        }
        let plan = theirs.and_then(|answer| answer.plan);
        if plan.is_some() || !self.nodes.is_empty() {
            let deeper = inner + 2;
            let _ = write!(out, ",\n{:inner$}\"Plans\": [", "");
            let mut separator = "\n";
            for node in &self.nodes {
                let _ = write!(out, "{separator}{:deeper$}", "");
                node.write_json(deeper, out);
                separator = ",\n";
            }
            if let Some(plan) = plan {
                let _ = write!(out, "{separator}{:deeper$}{}", "", moved(plan, deeper));
            }
            let _ = write!(out, "\n{:inner$}]", "");
        }
        let _ = write!(out, "\n{:depth$}}}", "");
    }
}

impl Value {
    fn json(&self) -> String {
        match self {
            Value::Text(text) | Value::Titled(text) => quoted(text),
            Value::List(list) => format!("[{}]", list.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")),
            Value::Count(count) => count.to_string(),
            Value::Milliseconds(time) => format!("{time:.3}"),
        }
    }
}

/// JSON whose first line will stand at `depth`. Strings in it have no line breaks.
fn moved(json: &str, depth: usize) -> String {
    let further = depth.saturating_sub(THEIR_DEPTH);
    json.replace('\n', &format!("\n{:further$}", ""))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A shard's JSON: `[{"Plan": {...}, "Planning Time": 0.1}]`.
struct Answer<'j> {
    plan: Option<&'j str>,
    /// The others, each with its name.
    members: Vec<String>,
}

impl Answer<'_> {
    /// What is not of this form is one member as it is.
    fn of(json: &str) -> Answer<'_> {
        let only = || {
            let object = json.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
            object.strip_prefix('{')?.strip_suffix('}').filter(|_| closes_at_its_end(object))
        };
        let Some(members) = only().map(members) else {
            return Answer { plan: None, members: vec![format!("\"Answer\": {}", json.trim())] };
        };
        let rest = members.iter().filter(|member| plan(member).is_none()).map(|member| (*member).to_owned()).collect();
        Answer { plan: members.iter().find_map(|member| plan(member)), members: rest }
    }
}

/// The value of the member that is called so.
fn plan(member: &str) -> Option<&str> {
    member.strip_prefix("\"Plan\":").map(str::trim)
}

/// Whether the first brace is closed by the last one.
fn closes_at_its_end(object: &str) -> bool {
    let mut left = false;
    walk(object, |depth, at, _| left |= depth == 0 && at + 1 < object.len());
    !left
}

/// The members of an object, from what stands between its braces.
fn members(object: &str) -> Vec<&str> {
    let mut from = 0;
    let mut members = Vec::new();
    walk(object, |depth, at, byte| {
        if depth == 0 && byte == b',' {
            members.push(object[from..at].trim());
            from = at + 1;
        }
    });
    members.push(object[from..].trim());
    members.retain(|member| !member.is_empty());
    members
}

/// Bytes that are outside of strings, with how deep in brackets each leaves the text.
fn walk(json: &str, mut see: impl FnMut(usize, usize, u8)) {
    let (mut depth, mut string, mut escaped) = (0usize, false, false);
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            _ if string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                see(depth, at, byte);
            }
            _ => see(depth, at, byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Node {
        let theirs = "[\n  {\n    \"Plan\": {\n      \"Node Type\": \"Seq, [Scan\\\"\"\n    },\n    \"Triggers\": [\n    ]\n  }\n]";
        let mut shard =
            Node { title: "Plan on s1:".into(), kind: "Shard", plan: Some(theirs.into()), ..Node::default() };
        shard.item("Shard", Value::Titled("s1".into()));
        let mut whole = Node { kind: "Ringway", nodes: vec![shard], ..Node::default() };
        whole.text("Tier", "a \"tier\"");
        whole.item("Shards", Value::List(vec!["s1".into(), "s2".into()]));
        whole.item("Rows", Value::Count(2));
        whole
    }

    #[test]
    fn json_is_one_document_with_the_shards_plans() {
        let json = report().json(&[("Execution Time".to_owned(), Value::Milliseconds(1.5))]);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        let plan = &read[0]["Plan"];
        assert_eq!(plan["Tier"], "a \"tier\"");
        assert_eq!(plan["Shards"][1], "s2");
        assert_eq!(plan["Rows"], 2);
        assert_eq!(plan["Plans"][0]["Shard"], "s1");
        assert_eq!(plan["Plans"][0]["Plans"][0]["Node Type"], "Seq, [Scan\"");
        assert!(plan["Plans"][0]["Triggers"].as_array().unwrap().is_empty());
        assert_eq!(read[0]["Execution Time"], 1.5);
        let two = Node { kind: "Shard", plan: Some("[{\"Plan\": {}}, {\"Plan\": {}}]".into()), ..Node::default() };
        let read: serde_json::Value = serde_json::from_str(&two.json(&[])).unwrap();
        assert_eq!(read[0]["Plan"]["Answer"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn text_is_indented() {
        let mut report = report();
        report.nodes[0].plan = Some("Sort\n  ->  Seq Scan".into());
        let expected = ["Tier: a \"tier\"", "Shards: s1, s2", "Rows: 2", "Plan on s1:", "  Sort", "    ->  Seq Scan"];
        assert_eq!(report.lines(), expected);
    }
}
