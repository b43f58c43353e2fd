//! Replacing byte ranges of a text; everything else stays as it is.

use std::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    pub range: Range<usize>,
    pub text: String,
}

impl Splice {
    pub fn replace(range: Range<usize>, text: impl Into<String>) -> Splice {
        Splice { range, text: text.into() }
    }

    pub fn insert(at: usize, text: impl Into<String>) -> Splice {
        Splice { range: at..at, text: text.into() }
    }
}

/// Applies splices to `sql`. They may come in any order (insertions at the same place stay in theirs); `None` if they
/// overlap or do not fall on characters of the text.
pub fn apply(sql: &str, splices: &[Splice]) -> Option<String> {
    let mut sorted: Vec<&Splice> = splices.iter().collect();
    sorted.sort_by_key(|splice| (splice.range.start, splice.range.end));
    let mut out = String::with_capacity(sql.len() + splices.iter().map(|s| s.text.len()).sum::<usize>());
    let mut at = 0;
    for splice in sorted {
        if splice.range.start < at || splice.range.end < splice.range.start {
            return None;
        }
        out.push_str(sql.get(at..splice.range.start)?);
        out.push_str(&splice.text);
        at = splice.range.end;
    }
    out.push_str(sql.get(at..)?);
    Some(out)
}

/// Where a byte of the original text lies after the splices; `None` inside a replaced range. An insertion exactly at
/// the place goes before it.
pub fn moved(at: usize, splices: &[Splice]) -> Option<usize> {
    let mut result = at as isize;
    for splice in splices {
        if splice.range.end <= at {
            result += splice.text.len() as isize - splice.range.len() as isize;
        } else if splice.range.start < at {
            return None;
        }
    }
    usize::try_from(result).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices_and_positions() {
        let sql = "select ä from t";
        let splices = [Splice::replace(15..16, "u"), Splice::insert(7, "1, ")];
        assert_eq!(apply(sql, &splices).as_deref(), Some("select 1, ä from u"));
        assert_eq!(moved(7, &splices), Some(10));
        assert_eq!(moved(10, &splices), Some(13));
        assert_eq!(apply(sql, &[]).as_deref(), Some(sql));
        assert_eq!(apply(sql, &[Splice::insert(8, "")]), None, "inside a character");
        assert_eq!(apply(sql, &[Splice::replace(0..5, ""), Splice::replace(3..7, "")]), None);
    }
}
