//! Passwords of roles: every shard gets the same verifier, so that what a client's own exchange proves to the gateway proves the
//! gateway to every shard. Shards that are given the password would each salt it their own way.

use std::borrow::Cow;

use crate::sql::lexer::{lex, Kind};
use crate::sql::splice::{apply, Splice};
use crate::wire::scram::Verifier;
use crate::wire::PgError;

/// `ALTER ROLE app PASSWORD 'secret'` becomes `ALTER ROLE app PASSWORD 'SCRAM-SHA-256$...'`; other statements stay. Takes
/// milliseconds. Refuses passwords whose value is not certain.
pub fn with_one_verifier(sql: &str) -> Result<Cow<'_, str>, PgError> {
    let unchanged = Cow::Borrowed(sql);
    let Ok(lexemes) = lex(sql) else { return Ok(unchanged) };
    let word = |at: usize, words: &[&str]| {
        lexemes.get(at).is_some_and(|lexeme| words.iter().any(|word| lexeme.is_word(sql, word)))
    };
    if !(word(0, &["create", "alter"]) && word(1, &["role", "user", "group"])) {
        return Ok(unchanged);
    }
    let given = (2..lexemes.len().saturating_sub(1))
        .find(|at| word(*at, &["password"]) && lexemes[at + 1].kind == Kind::String)
        .map(|at| (&lexemes[at + 1], lexemes.get(at + 2)));
    let Some((given, next)) = given else { return Ok(unchanged) };
    // A string on the next line would be the rest of it.
    let whole = next.is_none_or(|next| next.kind != Kind::String);
    let Some(password) = given.string_value(sql).filter(|_| whole) else {
        return Err(PgError::refused(
            "a password in this notation is not supported",
            "Write the password as one plain string: PASSWORD '...'.",
        )
        .detail("Every shard has to get the same verifier, which the gateway makes of the password's exact value."));
    };
    // PostgreSQL takes verifiers as they are, and clears an empty password.
    if password.is_empty() || password.parse::<Verifier>().is_ok() || is_md5(&password) {
        return Ok(unchanged);
    }
    let verifier = Splice::replace(given.start..given.end, format!("'{}'", Verifier::generate(&password)));
    Ok(apply(sql, &[verifier]).map_or(unchanged, Cow::Owned))
}

fn is_md5(password: &str) -> bool {
    password.len() == 35 && password.strip_prefix("md5").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_becomes_its_verifier() {
        for (before, after) in [
            ("CREATE ROLE a LOGIN PASSWORD 'pen''cil' INHERIT", " INHERIT"),
            ("alter user \"Password\" with encrypted password $$pen'cil$$", ""),
            ("ALTER ROLE a PASSWORD E'pen\\'cil' VALID UNTIL 'infinity'", " VALID UNTIL 'infinity'"),
        ] {
            let made = with_one_verifier(before).unwrap();
            let start = made.find("'SCRAM-SHA-256$").unwrap_or_else(|| panic!("{made}"));
            let verifier = made[start + 1..].split('\'').next().unwrap();
            assert!(verifier.parse::<Verifier>().unwrap().matches("pen'cil"), "{made}");
            assert_eq!(&made[start + verifier.len() + 2..], after);
            assert_eq!(made[..start], before[..start]);
        }
    }

    #[test]
    fn other_statements_stay() {
        let verifier = format!("ALTER ROLE a PASSWORD '{}'", Verifier::generate("x"));
        for sql in [
            "CREATE ROLE a",
            "ALTER ROLE a PASSWORD NULL",
            "ALTER ROLE a PASSWORD ''",
            "ALTER ROLE a PASSWORD 'md50123456789abcdef0123456789abcdef'",
            "COMMENT ON ROLE a IS 'password'",
            "CREATE TABLE password (password text DEFAULT 'x')",
            "ALTER ROLE a SET x = 'PASSWORD ''y'''",
            verifier.as_str(),
        ] {
            assert_eq!(with_one_verifier(sql).unwrap(), sql);
        }
    }

    #[test]
    fn what_cannot_be_read_exactly_is_refused() {
        for password in
            ["'pen'\n'cil'", r"U&'p\0065ncil'", "U&'p!0065ncil' UESCAPE '!'", r"E'\x61'", r"E'\141'", "X'61'"]
        {
            let error = with_one_verifier(&format!("ALTER ROLE a PASSWORD {password}")).unwrap_err();
            assert_eq!(error.code, crate::wire::SqlState::FEATURE_NOT_SUPPORTED, "{password}");
        }
    }
}
