//! What can go wrong in an effect, by what the driver does about it.

use tokio_postgres::error::SqlState;

use ringway_topology::service::sqlstate;

#[derive(Clone, Debug, thiserror::Error)]
pub enum MoveError {
    /// Tried again after a pause; shown meanwhile.
    #[error("{0}")]
    Retry(String),
    /// A server refused or could not be reached; mostly tried again.
    #[error("{text}")]
    Postgres { code: Option<String>, text: String },
    /// A named bound was exceeded while writes were held.
    #[error("{0}")]
    Bound(String),
    /// What has been copied is void.
    #[error("{0}")]
    Void(String),
    /// Somebody has to look.
    #[error("{0}")]
    Fatal(String),
    /// The operator asked for something that this effect makes way for.
    #[error("interrupted by a command")]
    Interrupted,
}

impl MoveError {
    pub fn retry(text: impl Into<String>) -> Self {
        MoveError::Retry(text.into())
    }

    pub fn fatal(text: impl Into<String>) -> Self {
        MoveError::Fatal(text.into())
    }

    pub fn code(&self) -> Option<&str> {
        match self {
            MoveError::Postgres { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    pub fn has_code(&self, state: &SqlState) -> bool {
        self.code() == Some(state.code())
    }

    /// UNIQUE or EXCLUDE.
    pub fn is_conflict(&self) -> bool {
        self.has_code(&SqlState::UNIQUE_VIOLATION) || self.has_code(&SqlState::EXCLUSION_VIOLATION)
    }

    /// Somebody else held a lock for longer than this was willing to wait.
    pub fn is_lock_timeout(&self) -> bool {
        self.has_code(&SqlState::LOCK_NOT_AVAILABLE)
            || self.has_code(&SqlState::T_R_DEADLOCK_DETECTED)
            || self.has_code(&SqlState::QUERY_CANCELED)
    }

    pub fn is_undefined_object(&self) -> bool {
        self.has_code(&SqlState::UNDEFINED_OBJECT)
    }

    /// The connection is gone, or the server said nothing: whether the last command took effect is not known.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            MoveError::Postgres { code: None, .. } => true,
            MoveError::Postgres { code: Some(code), .. } => code.starts_with("57P") || code.starts_with("08"),
            _ => false,
        }
    }
}

impl From<tokio_postgres::Error> for MoveError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            return MoveError::Postgres { code: None, text: format!("{error}{cause}") };
        };
        let mut text = db.message().to_owned();
        if let Some(detail) = db.detail() {
            text = format!("{text}. {detail}");
        }
        match db.code().code() {
            sqlstate::FOREIGN_ROW => MoveError::Fatal(text),
            code => MoveError::Postgres { code: Some(code.to_owned()), text: format!("{text} ({code})") },
        }
    }
}
