//! Statements as trees that can be made smaller: what may be left out, and what may stand for what, is marked.

use super::types::Type;

/// What a part of a statement is; one may stand for another of the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    Value(Type),
    /// A SELECT, VALUES or set operation with this many columns.
    Query(usize),
    Relation,
}

#[derive(Clone, Debug)]
pub enum Node {
    Text(String),
    /// By the extended protocol `$n`, cast to the type.
    Parameter(Type, Option<String>),
    Sequence(Vec<Node>),
    Optional(Box<Node>),
    /// Any but `least` of the items may go.
    List {
        separator: &'static str,
        items: Vec<Node>,
        least: usize,
    },
    /// A select list.
    Outputs(Vec<Node>),
    Tagged(Tag, Box<Node>),
    Ordered(Box<Ordered>),
}

/// A query under an order of all its columns: rows that are equal in it are equal.
#[derive(Clone, Debug)]
pub struct Ordered {
    pub query: Node,
    /// Sorted by before the columns.
    pub leading: Option<Node>,
    /// Of the columns; the last one holds for those beyond.
    pub directions: Vec<&'static str>,
    pub limit: Option<Node>,
}

pub fn text(text: impl Into<String>) -> Node {
    Node::Text(text.into())
}

pub fn optional(node: Node) -> Node {
    Node::Optional(Box::new(node))
}

pub fn list(separator: &'static str, items: Vec<Node>) -> Node {
    Node::List { separator, items, least: 1 }
}

pub fn tagged(tag: Tag, node: Node) -> Node {
    Node::Tagged(tag, Box::new(node))
}

/// A pattern whose `{}` are the parts.
pub fn form(pattern: &str, parts: Vec<Node>) -> Node {
    let mut nodes = Vec::new();
    let mut parts = parts.into_iter();
    for (index, piece) in pattern.split("{}").enumerate() {
        if index > 0 {
            nodes.push(parts.next().expect("as many parts as places"));
        }
        if !piece.is_empty() {
            nodes.push(text(piece));
        }
    }
    debug_assert!(parts.next().is_none(), "as many places as parts: {pattern}");
    Node::Sequence(nodes)
}

impl Node {
    /// The statement and its parameters.
    pub fn render(&self) -> (String, Vec<Option<String>>) {
        let (mut sql, mut parameters) = (String::new(), Vec::new());
        self.write(&mut sql, &mut parameters);
        (sql, parameters)
    }

    fn write(&self, sql: &mut String, parameters: &mut Vec<Option<String>>) {
        match self {
            Node::Text(text) => sql.push_str(text),
            Node::Parameter(ty, value) => {
                parameters.push(value.clone());
                *sql += &format!("${}::{}", parameters.len(), ty.sql());
            }
            Node::Sequence(nodes) => nodes.iter().for_each(|node| node.write(sql, parameters)),
            Node::Optional(node) | Node::Tagged(_, node) => node.write(sql, parameters),
            Node::List { separator, items, .. } => write_all(items, separator, sql, parameters),
            Node::Outputs(items) => write_all(items, ", ", sql, parameters),
            Node::Ordered(ordered) => ordered.write(sql, parameters),
        }
    }

    /// Columns of the first select list in it.
    fn columns(&self) -> Option<usize> {
        match self {
            Node::Text(_) | Node::Parameter(..) => None,
            Node::Outputs(items) => Some(items.len()),
            Node::Sequence(nodes) | Node::List { items: nodes, .. } => nodes.iter().find_map(Node::columns),
            Node::Optional(node) | Node::Tagged(_, node) => node.columns(),
            Node::Ordered(ordered) => ordered.query.columns(),
        }
    }

    /// Whether the statement's own rows are in order.
    pub fn is_ordered(&self) -> bool {
        match self {
            Node::Ordered(_) => true,
            Node::Tagged(_, node) => node.is_ordered(),
            Node::Sequence(nodes) => nodes.last().is_some_and(Node::is_ordered),
            _ => false,
        }
    }

    /// How much there is: what shrinking makes less.
    pub fn size(&self) -> usize {
        match self {
            Node::Text(text) => 1 + text.len() / 16,
            Node::Parameter(..) => 2,
            Node::Sequence(nodes) | Node::List { items: nodes, .. } | Node::Outputs(nodes) => {
                nodes.iter().map(Node::size).sum::<usize>() + 1
            }
            Node::Optional(node) | Node::Tagged(_, node) => node.size() + 1,
            Node::Ordered(ordered) => {
                ordered.query.size()
                    + 2
                    + ordered.leading.as_ref().map_or(0, Node::size)
                    + ordered.limit.as_ref().map_or(0, Node::size)
            }
        }
    }

    pub fn holds_parameters(&self) -> bool {
        !self.render().1.is_empty()
    }
}

fn write_all(items: &[Node], separator: &str, sql: &mut String, parameters: &mut Vec<Option<String>>) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            sql.push_str(separator);
        }
        item.write(sql, parameters);
    }
}

impl Ordered {
    fn write(&self, sql: &mut String, parameters: &mut Vec<Option<String>>) {
        self.query.write(sql, parameters);
        sql.push_str(" ORDER BY ");
        if let Some(leading) = &self.leading {
            leading.write(sql, parameters);
            sql.push_str(", ");
        }
        let columns = self.query.columns().unwrap_or(1);
        let keys = (0..columns).map(|column| {
            let direction = self.directions.get(column).or(self.directions.last()).copied().unwrap_or_default();
            format!("{}{direction}", column + 1)
        });
        *sql += &keys.collect::<Vec<_>>().join(", ");
        if let Some(limit) = &self.limit {
            limit.write(sql, parameters);
        }
    }
}

impl Node {
    /// The same statement with one thing less, the greatest changes first.
    pub fn reductions(&self) -> Vec<Node> {
        let size = self.size();
        let mut found = self.smaller();
        found.retain(|node| node.size() < size);
        found.sort_by_key(Node::size);
        found
    }

    fn smaller(&self) -> Vec<Node> {
        match self {
            Node::Text(_) | Node::Parameter(..) => Vec::new(),
            Node::Sequence(nodes) => within(nodes, Node::Sequence),
            Node::Optional(node) => {
                let mut found = vec![text("")];
                found.extend(node.smaller().into_iter().map(optional));
                found
            }
            Node::List { separator, items, least } => {
                let again = |items| Node::List { separator, items, least: *least };
                let mut found = without_one(items, *least, again);
                found.extend(within(items, again));
                found
            }
            Node::Outputs(items) => {
                let mut found = without_one(items, 1, Node::Outputs);
                found.extend(within(items, Node::Outputs));
                found
            }
            Node::Tagged(tag, node) => {
                let mut found = Vec::new();
                node.collect(tag, &mut found);
                if let Tag::Value(ty) = tag {
                    found.push(tagged(tag.clone(), text(ty.plainest())));
                }
                found.extend(node.smaller().into_iter().map(|node| tagged(tag.clone(), node)));
                found
            }
            Node::Ordered(ordered) => ordered.smaller(),
        }
    }

    /// All parts with this tag.
    fn collect(&self, wanted: &Tag, found: &mut Vec<Node>) {
        match self {
            Node::Text(_) | Node::Parameter(..) => {}
            Node::Sequence(nodes) | Node::List { items: nodes, .. } | Node::Outputs(nodes) => {
                nodes.iter().for_each(|node| node.collect(wanted, found));
            }
            Node::Optional(node) => node.collect(wanted, found),
            Node::Tagged(tag, node) => {
                if tag == wanted {
                    found.push(self.clone());
                }
                node.collect(wanted, found);
            }
            Node::Ordered(ordered) => {
                ordered.query.collect(wanted, found);
                ordered.leading.iter().for_each(|node| node.collect(wanted, found));
            }
        }
    }
}

impl Ordered {
    fn smaller(&self) -> Vec<Node> {
        let again = |ordered: Ordered| Node::Ordered(Box::new(ordered));
        let mut found = vec![self.query.clone()];
        if self.leading.is_some() {
            found.push(again(Ordered { leading: None, ..self.clone() }));
        }
        if self.limit.is_some() {
            found.push(again(Ordered { limit: None, ..self.clone() }));
        }
        found.extend(self.query.smaller().into_iter().map(|query| again(Ordered { query, ..self.clone() })));
        let leading = self.leading.iter().flat_map(Node::smaller);
        found.extend(leading.map(|leading| again(Ordered { leading: Some(leading), ..self.clone() })));
        found
    }
}

fn within(nodes: &[Node], again: impl Fn(Vec<Node>) -> Node) -> Vec<Node> {
    let mut found = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        for smaller in node.smaller() {
            let mut nodes = nodes.to_vec();
            nodes[index] = smaller;
            found.push(again(nodes));
        }
    }
    found
}

fn without_one(nodes: &[Node], least: usize, again: impl Fn(Vec<Node>) -> Node) -> Vec<Node> {
    if nodes.len() <= least {
        return Vec::new();
    }
    let without = (0..nodes.len()).map(|index| {
        let mut nodes = nodes.to_vec();
        nodes.remove(index);
        again(nodes)
    });
    without.collect()
}
