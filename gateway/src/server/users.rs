//! The users file: one user per line, `name verifier-or-password`. `#` begins a comment.

use std::collections::HashMap;
use std::path::Path;

use crate::wire::scram::Verifier;

#[derive(Debug, Default)]
pub struct Users {
    verifiers: HashMap<String, Verifier>,
}

#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("cannot read the users file: {0}")]
    Read(#[from] std::io::Error),
    #[error("line {0} of the users file is not of the form \"name verifier-or-password\"")]
    Line(usize),
}

impl Users {
    pub fn read(path: &Path) -> Result<Users, UsersError> {
        Users::parse(&std::fs::read_to_string(path)?)
    }

    pub fn parse(text: &str) -> Result<Users, UsersError> {
        let mut verifiers = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, secret) = line.split_once(char::is_whitespace).ok_or(UsersError::Line(index + 1))?;
            let secret = secret.trim();
            let verifier = match secret.parse::<Verifier>() {
                Ok(verifier) => verifier,
                Err(_) if secret.starts_with("SCRAM-SHA-256$") => return Err(UsersError::Line(index + 1)),
                // A password: its verifier is made once.
                Err(_) => Verifier::generate(secret),
            };
            verifiers.insert(name.to_owned(), verifier);
        }
        Ok(Users { verifiers })
    }

    pub fn verifier(&self, name: &str) -> Option<&Verifier> {
        self.verifiers.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_verifiers() {
        let verifier = Verifier::generate("pencil").to_string();
        let users = Users::parse(&format!("# users\nann pencil\n\nbob {verifier}\n")).unwrap();
        assert!(users.verifier("ann").unwrap().matches("pencil"));
        assert!(users.verifier("bob").unwrap().matches("pencil"));
        assert!(users.verifier("eve").is_none());
        assert!(matches!(Users::parse("ann"), Err(UsersError::Line(1))));
        assert!(matches!(Users::parse("ann SCRAM-SHA-256$x"), Err(UsersError::Line(1))));
    }
}
