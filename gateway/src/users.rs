//! The users file: one user per line, `name verifier-or-password`. `#` begins a comment.

use std::collections::HashMap;
use std::path::Path;

use crate::wire::scram::Verifier;

#[derive(Default)]
pub struct Users {
    users: HashMap<String, User>,
}

pub struct User {
    pub verifier: Verifier,
    /// When the file has it: the shards' verifiers need not be the file's then.
    pub password: Option<String>,
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
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, secret) = line.split_once(char::is_whitespace).ok_or(UsersError::Line(index + 1))?;
            let secret = secret.trim();
            let user = match secret.parse::<Verifier>() {
                Ok(verifier) => User { verifier, password: None },
                Err(_) if secret.starts_with("SCRAM-SHA-256$") => return Err(UsersError::Line(index + 1)),
                // A password: its verifier is made once.
                Err(_) => User { verifier: Verifier::generate(secret), password: Some(secret.to_owned()) },
            };
            users.insert(name.to_owned(), user);
        }
        Ok(Users { users })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    pub fn find(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_verifiers() {
        let verifier = Verifier::generate("pencil").to_string();
        let users = Users::parse(&format!("# users\nann pencil\n\nbob {verifier}\n")).unwrap();
        let [ann, bob] = ["ann", "bob"].map(|name| users.find(name).unwrap());
        assert!(ann.verifier.matches("pencil") && ann.password.as_deref() == Some("pencil"));
        assert!(bob.verifier.matches("pencil") && bob.password.is_none());
        assert!(users.find("eve").is_none());
        assert!(matches!(Users::parse("ann").err(), Some(UsersError::Line(1))));
        assert!(matches!(Users::parse("ann SCRAM-SHA-256$x").err(), Some(UsersError::Line(1))));
    }
}
