//! Command tags: what CommandComplete says, added up over shards.

use super::MergeError;

/// Adds up `UPDATE 3` and `UPDATE 4` to `UPDATE 7`. `INSERT 0 2` keeps its zero, and a tag without a count
/// (`CREATE TABLE`) must be the same everywhere.
#[derive(Debug, Clone, Default)]
pub struct CommandTags {
    sum: Option<Tag>,
}

#[derive(Debug, Clone)]
struct Tag {
    /// With its blank, for tags that have a count: `UPDATE `, `INSERT 0 `.
    command: String,
    rows: Option<u64>,
}

impl Tag {
    fn parse(text: &str) -> Tag {
        if let Some((command, count)) = text.rsplit_once(' ') {
            if let Ok(rows) = count.parse() {
                return Tag { command: format!("{command} "), rows: Some(rows) };
            }
        }
        Tag { command: text.to_owned(), rows: None }
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.command)?;
        self.rows.map_or(Ok(()), |rows| rows.fmt(f))
    }
}

impl CommandTags {
    pub fn add(&mut self, tag: &str) -> Result<(), MergeError> {
        let tag = Tag::parse(tag);
        let Some(sum) = &mut self.sum else {
            self.sum = Some(tag);
            return Ok(());
        };
        if sum.command != tag.command {
            return Err(MergeError::DifferentCommands { first: sum.to_string(), other: tag.to_string() });
        }
        if let (Some(sum), Some(rows)) = (&mut sum.rows, tag.rows) {
            *sum = sum.saturating_add(rows);
        }
        Ok(())
    }

    /// None if no shard answered.
    pub fn total(&self) -> Option<String> {
        self.sum.as_ref().map(Tag::to_string)
    }
}

/// The tag of an answer whose rows the gateway counted itself: LIMIT, DISTINCT and hidden rows change the number.
pub fn with_count(tag: &str, rows: u64) -> String {
    let Tag { command, rows: counted } = Tag::parse(tag);
    Tag { command, rows: counted.map(|_| rows) }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(tags: &[&str]) -> Result<Option<String>, MergeError> {
        let mut sum = CommandTags::default();
        tags.iter().try_for_each(|tag| sum.add(tag))?;
        Ok(sum.total())
    }

    #[test]
    fn counts_are_added() {
        for (tags, sum) in [
            (&["UPDATE 3", "UPDATE 4"][..], "UPDATE 7"),
            (&["INSERT 0 1", "INSERT 0 0", "INSERT 0 41"], "INSERT 0 42"),
            (&["SELECT 10"], "SELECT 10"),
            (&["COPY 2", "COPY 18446744073709551615"], "COPY 18446744073709551615"),
            (&["CREATE TABLE", "CREATE TABLE"], "CREATE TABLE"),
            (&["MERGE 1", "MERGE 1"], "MERGE 2"),
        ] {
            assert_eq!(total(tags), Ok(Some(sum.to_owned())));
        }
        assert_eq!(total(&[]), Ok(None));
    }

    #[test]
    fn different_commands_are_an_error() {
        assert!(total(&["UPDATE 3", "DELETE 4"]).is_err());
        assert!(total(&["CREATE TABLE", "DROP TABLE"]).is_err());
    }

    #[test]
    fn a_count_is_replaced() {
        assert_eq!(with_count("SELECT 20", 10), "SELECT 10");
        assert_eq!(with_count("INSERT 0 20", 3), "INSERT 0 3");
        assert_eq!(with_count("BEGIN", 3), "BEGIN");
    }
}
