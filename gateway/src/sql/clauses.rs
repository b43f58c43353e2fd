//! The clauses of one SELECT, UPDATE or DELETE, found on the token stream: exact extents that the syntax tree lacks.

use std::ops::RangeInclusive;

use super::lexer::Kind;
use super::parse::Text;

/// Token numbers, first and last included.
pub type Extent = RangeInclusive<usize>;

/// A SELECT without its WITH. Extents do not include the key words.
#[derive(Clone, Debug, Default)]
pub struct SelectClauses {
    pub select: usize,
    /// The select list with its DISTINCT.
    pub items: Vec<Extent>,
    /// From FROM (or, without it, from behind the select list) to the end of WHERE, key words included.
    pub from_where: Option<Extent>,
    pub where_: Option<Extent>,
    pub group_by: Option<Clause>,
    pub having: Option<Clause>,
    pub window: Option<Clause>,
    pub order_by: Option<Clause>,
    pub limit: Option<Clause>,
    pub offset: Option<Clause>,
    pub fetch: Option<Clause>,
    pub locks: Option<Clause>,
    /// Last token that belongs to it.
    pub last: usize,
    /// Last token of what precedes ORDER BY, LIMIT and so on.
    pub body_last: usize,
}

/// A clause with its key word.
#[derive(Clone, Debug)]
pub struct Clause {
    pub keyword: usize,
    pub last: usize,
    /// What follows the key words, split at commas.
    pub items: Vec<Extent>,
}

impl Clause {
    pub fn content(&self) -> Option<Extent> {
        Some(*self.items.first()?.start()..=*self.items.last()?.end())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Items,
    From,
    Where,
    GroupBy,
    Having,
    Window,
    OrderBy,
    Limit,
    Offset,
    Fetch,
    Locks,
}

/// Whether the token is an unquoted key word and not a label (`AS from`) or a part of a name (`t.from`).
pub fn is_keyword(text: &Text<'_>, index: usize, word: &str) -> bool {
    text.word(index, word) && (index == 0 || !(text.punctuation(index - 1, b'.') || text.word(index - 1, "as")))
}

/// `None` when the statement is not a simple SELECT that ends at its parenthesis or the end of the text (a set
/// operation follows, or SELECT INTO).
pub fn select(text: &Text<'_>, select: usize) -> Option<SelectClauses> {
    if !text.word(select, "select") {
        return None;
    }
    let mut sections: Vec<(Section, usize, usize)> = Vec::new();
    let mut at = select + 1;
    // DISTINCT [ON (...)] | ALL
    if text.word(at, "all") {
        at += 1;
    } else if text.word(at, "distinct") {
        at += 1;
        if text.word(at, "on") {
            at = text.closing(at + 1)? + 1;
        }
    }
    sections.push((Section::Items, select, at));
    let mut end = text.lexemes.len();
    while at < end {
        let lexeme = text.lexemes[at];
        match lexeme.kind {
            Kind::Punctuation(b'(' | b'[') => {
                at = text.closing(at)? + 1;
                continue;
            }
            Kind::Punctuation(b')' | b']' | b';') => {
                end = at;
                break;
            }
            Kind::Word => {}
            _ => {
                at += 1;
                continue;
            }
        }
        let by = |word: &str| is_keyword(text, at, word) && text.word(at + 1, "by");
        let section = if is_keyword(text, at, "from") && !is_distinct_from(text, at) {
            Some((Section::From, 1))
        } else if is_keyword(text, at, "where") {
            Some((Section::Where, 1))
        } else if by("group") {
            Some((Section::GroupBy, 2))
        } else if is_keyword(text, at, "having") {
            Some((Section::Having, 1))
        } else if is_keyword(text, at, "window") {
            Some((Section::Window, 1))
        } else if by("order") {
            Some((Section::OrderBy, 2))
        } else if is_keyword(text, at, "limit") {
            Some((Section::Limit, 1))
        } else if is_keyword(text, at, "offset") {
            Some((Section::Offset, 1))
        } else if is_keyword(text, at, "fetch") {
            Some((Section::Fetch, 1))
        } else if is_keyword(text, at, "for") && !text.word(at - 1, "collation") {
            Some((Section::Locks, 1))
        } else if ["union", "intersect", "except", "into"].iter().any(|word| is_keyword(text, at, word)) {
            return None;
        } else {
            None
        };
        match section {
            Some((section, words)) => {
                sections.push((section, at, at + words));
                at += words;
            }
            None => at += 1,
        }
    }
    // GROUP BY ALL and DISTINCT are no part of an item.
    let quantified = sections.iter().any(|&(section, _, start)| {
        section == Section::GroupBy && (text.word(start, "all") || text.word(start, "distinct"))
    });
    if quantified {
        return None;
    }
    let mut out = SelectClauses { select, last: end.checked_sub(1)?, ..SelectClauses::default() };
    out.body_last = out.last;
    let mut body_ended = false;
    for (number, &(section, keyword, start)) in sections.iter().enumerate() {
        let next = sections.get(number + 1).map_or(end, |next| next.1);
        let clause = Clause { keyword, last: next - 1, items: split_at_commas(text, start, next)? };
        let slot = match section {
            Section::Items => {
                out.items = clause.items;
                continue;
            }
            Section::From => {
                if out.from_where.is_some() {
                    return None;
                }
                out.from_where = Some(keyword..=next - 1);
                continue;
            }
            Section::Where => {
                let first = out.from_where.as_ref().map_or(keyword, |extent| *extent.start());
                out.from_where = Some(first..=next - 1);
                out.where_ = Some(start..=next - 1);
                if start >= next {
                    return None;
                }
                continue;
            }
            Section::GroupBy => &mut out.group_by,
            Section::Having => &mut out.having,
            Section::Window => &mut out.window,
            Section::OrderBy => &mut out.order_by,
            Section::Limit => &mut out.limit,
            Section::Offset => &mut out.offset,
            Section::Fetch => &mut out.fetch,
            Section::Locks => &mut out.locks,
        };
        if section != Section::Locks && slot.is_some() {
            return None;
        }
        let tail = !matches!(section, Section::GroupBy | Section::Having | Section::Window);
        if tail && !body_ended {
            body_ended = true;
            out.body_last = keyword - 1;
        }
        match slot {
            Some(locks) => locks.last = clause.last,
            None => *slot = Some(clause),
        }
    }
    Some(out)
}

/// `IS [NOT] DISTINCT FROM`.
fn is_distinct_from(text: &Text<'_>, from: usize) -> bool {
    from >= 2
        && text.word(from - 1, "distinct")
        && (text.word(from - 2, "is") || from >= 3 && text.word(from - 2, "not") && text.word(from - 3, "is"))
}

/// Splits tokens `start..end` at commas outside of parentheses. `None` for an empty part among several.
pub fn split_at_commas(text: &Text<'_>, start: usize, end: usize) -> Option<Vec<Extent>> {
    let mut parts = Vec::new();
    let mut first = start;
    let mut at = start;
    while at < end {
        match text.lexemes[at].kind {
            Kind::Punctuation(b'(' | b'[') => at = text.closing(at)?,
            Kind::Punctuation(b',') => {
                if first == at {
                    return None;
                }
                parts.push(first..=at - 1);
                first = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if first < end {
        parts.push(first..=end - 1);
    } else if !parts.is_empty() {
        return None;
    }
    Some(parts)
}

/// Where the condition of an UPDATE or DELETE stands.
#[derive(Clone, Debug)]
pub struct WriteClauses {
    /// The expression after WHERE.
    pub where_: Option<Extent>,
    /// Last token before RETURNING or the end: a WHERE can be inserted behind it.
    pub last: usize,
}

/// `first` is the token UPDATE or DELETE.
pub fn write(text: &Text<'_>, first: usize) -> Option<WriteClauses> {
    let mut where_ = None;
    let mut at = first;
    let mut end = text.lexemes.len();
    while at < end {
        match text.lexemes[at].kind {
            Kind::Punctuation(b'(' | b'[') => at = text.closing(at)?,
            Kind::Punctuation(b')' | b']' | b';') => end = at,
            Kind::Word if is_keyword(text, at, "where") => where_ = Some(at + 1),
            Kind::Word if is_keyword(text, at, "returning") => end = at,
            _ => {}
        }
        at += 1;
    }
    let last = end.checked_sub(1)?;
    let where_ = match where_ {
        Some(start) if start <= last => Some(start..=last),
        Some(_) => return None,
        None => None,
    };
    Some(WriteClauses { where_, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses() {
        let sql = "select distinct on (a, b) a, f(x, y) as \"from\", t.from, extract(day from d) as limit \
                   from t where x is not distinct from y and (select 1 from u where true limit 1) = 1 \
                   group by a, (b) having count(*) > 1 order by a desc, b limit 5 offset $1 for update";
        let text = Text::new(sql).unwrap();
        let clauses = select(&text, 0).unwrap();
        let at = |extent: &Extent| text.slice(*extent.start(), *extent.end());
        let items: Vec<&str> = clauses.items.iter().map(at).collect();
        assert_eq!(items, ["a", "f(x, y) as \"from\"", "t.from", "extract(day from d) as limit"]);
        assert!(at(clauses.where_.as_ref().unwrap()).starts_with("x is not"));
        assert_eq!(clauses.group_by.as_ref().unwrap().items.iter().map(at).collect::<Vec<_>>(), ["a", "(b)"]);
        assert_eq!(at(&clauses.order_by.as_ref().unwrap().content().unwrap()), "a desc, b");
        assert_eq!(at(&clauses.offset.as_ref().unwrap().content().unwrap()), "$1");
        assert!(clauses.locks.is_some());
        assert!(text.slice(0, clauses.body_last).ends_with("count(*) > 1"));
    }

    #[test]
    fn set_operations_are_not_simple() {
        let text = Text::new("select 1 from t union select 2").unwrap();
        assert!(select(&text, 0).is_none());
    }
}
