//! The one place where errors become gRPC statuses.

use tonic::Status;

use crate::control::ControlError;

impl From<ControlError> for Status {
    fn from(error: ControlError) -> Status {
        let text = error.to_string();
        match error {
            ControlError::Invalid(_) => Status::invalid_argument(text),
            ControlError::NotFound(_) => Status::not_found(text),
            ControlError::Precondition(_) => Status::failed_precondition(text),
            ControlError::Unimplemented(_) => Status::unimplemented(text),
            ControlError::Unavailable(_)
            | ControlError::Connect(_)
            | ControlError::Wait(_)
            | ControlError::ShuttingDown => Status::unavailable(text),
            ControlError::Sql(error) if error.is_closed() => Status::unavailable(text),
            ControlError::Sql(_) => Status::failed_precondition(text),
            ControlError::Invariant(_) | ControlError::Store(_) | ControlError::Internal(_) => {
                tracing::error!(error = %text, "internal error");
                Status::internal(text)
            }
        }
    }
}
