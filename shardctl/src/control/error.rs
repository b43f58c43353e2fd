//! What an operation can fail with, by what its caller does about it.

use ringway_topology::ids::GatewayId;
use ringway_topology::store::StoreError;

use crate::pg::{message_of, PgConnectError};

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    /// The cluster is not in the state for it; says what to do.
    #[error("{0}")]
    Precondition(String),
    #[error("{0}")]
    Unimplemented(String),
    /// A shard cannot be reached, or something took longer than its bound; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Connect(#[from] PgConnectError),
    #[error("{}", message_of(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error("the change was not made: it would break the invariant {0}")]
    Invariant(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the control plane is shutting down")]
    ShuttingDown,
    #[error("{0}")]
    Internal(String),
}

impl ControlError {
    /// `what` before the server's message: which shard, which step.
    pub fn context(self, what: impl std::fmt::Display) -> ControlError {
        match self {
            ControlError::Sql(error) if error.is_closed() => {
                ControlError::Unavailable(format!("{what}: {}", message_of(&error)))
            }
            ControlError::Sql(error) => ControlError::Precondition(format!("{what}: {}", message_of(&error))),
            ControlError::Invalid(text) => ControlError::Invalid(format!("{what}: {text}")),
            ControlError::Precondition(text) => ControlError::Precondition(format!("{what}: {text}")),
            ControlError::Unavailable(text) => ControlError::Unavailable(format!("{what}: {text}")),
            ControlError::Internal(text) => ControlError::Internal(format!("{what}: {text}")),
            other => other,
        }
    }

    /// The SQLSTATE that a shard answered, if it is that kind of error.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ControlError::Sql(error) => error.code().map(|code| code.code()),
            _ => None,
        }
    }
}

/// Not every gateway has acknowledged in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    #[error("gateway {gateway} at {listen_address} has not acknowledged epoch {epoch} in time (it is at {at})")]
    Gateway { gateway: GatewayId, listen_address: String, epoch: u64, at: u64 },
    #[error("the control plane has just started, and gateways may still hold leases that it does not know; try again in a few seconds")]
    Starting,
    #[error("sessions of gateways without a lease could not be ended on shard {shard} in time: {reason}")]
    Shard { shard: String, reason: String },
}
