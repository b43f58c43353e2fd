//! explain
use super::dispatch::{Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::hold::Admitted;
use crate::plan::types::*;
use crate::wire::PgError;
pub async fn run(_: &mut Executor, _: &Run<'_>, _: &Admitted, _: &Explain) -> Result<Completed, Failure> { Err(PgError::refused("x","y").into()) }
