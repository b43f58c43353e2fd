//! Words that PostgreSQL keeps for its grammar, of which none is a type's name or a function's; and words that it does not.

use std::cmp::Ordering;

/// `RESERVED_KEYWORD` of `src/include/parser/kwlist.h`, in order.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "system_user",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

/// Words that other grammars of the parser know, and that are names in a query of PostgreSQL: `WITH top AS (...) SELECT top.id FROM top`.
const FOREIGN: &[&str] = &[
    "anti",
    "apply",
    "asof",
    "cluster",
    "connect",
    "convert",
    "distribute",
    "explain",
    "global",
    "match_condition",
    "match_recognize",
    "minus",
    "open",
    "openjson",
    "output",
    "pivot",
    "prewhere",
    "prior",
    "qualify",
    "safe_cast",
    "sample",
    "semi",
    "settings",
    "sort",
    "start",
    "straight_join",
    "struct",
    "top",
    "try_cast",
    "try_convert",
    "unpivot",
    "view",
];

/// Whether an unquoted word is one of them, in any case.
pub fn is_reserved(word: &str) -> bool {
    is_listed(RESERVED, word)
}

/// Whether PostgreSQL reads the word as a name wherever the parser might read more into it.
pub fn is_foreign(word: &str) -> bool {
    is_listed(FOREIGN, word)
}

fn is_listed(words: &[&str], word: &str) -> bool {
    let compare = |known: &&str| -> Ordering { known.bytes().cmp(word.bytes().map(|byte| byte.to_ascii_lowercase())) };
    words.binary_search_by(compare).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_case() {
        assert!(RESERVED.is_sorted() && FOREIGN.is_sorted());
        assert!(is_foreign("Top") && !FOREIGN.iter().any(|word| is_reserved(word)));
        assert!(is_reserved("SELECT") && is_reserved("when") && !is_reserved("name") && !is_reserved("values"));
    }
}
