//! LISTEN, UNLISTEN, pg_listening_channels(), and when the client is told of notifications: before ReadyForQuery outside a
//! transaction, and while it is idle there, as PostgreSQL does.

use super::Session;
use crate::exec::commit::AfterCommit;
use crate::exec::failure::Failure;
use crate::exec::listen::session::Change;
use crate::wire::{backend, PgError, SqlState};
use ringway_topology::model::{quote_ident, quote_literal};

impl Session {
    /// At once, or with the transaction.
    pub(super) async fn listen(&mut self, change: Change) -> Result<(), Failure> {
        if self.executor.transaction.is_open() {
            self.executor.transaction.listens.push(change);
            return Ok(());
        }
        self.executor.enter()?;
        self.executor.slot.reads();
        let prepared = self.executor.prepare_listen(&[change]).await?;
        self.executor.finish_listen(prepared, true);
        Ok(())
    }

    /// As PostgreSQL's scanner says it.
    pub(super) fn warn_truncated(&mut self, written: Option<&str>, channel: &str) {
        if let Some(written) = written {
            let message = format!("identifier \"{written}\" will be truncated to \"{channel}\"");
            let mut notice = PgError::notice(message);
            notice.code = SqlState::NAME_TOO_LONG;
            backend::notice_response(self.executor.client.out(), &notice);
        }
    }

    pub(super) async fn listening_channels(&mut self, label: &str, describe: bool) -> Result<(), Failure> {
        let channels: Vec<String> = self.executor.listens_to().iter().map(|channel| quote_literal(channel)).collect();
        let sql = format!(
            "SELECT pg_catalog.unnest(ARRAY[{}]::pg_catalog.text[]) AS {}",
            channels.join(", "),
            quote_ident(label)
        );
        self.pass(&sql, describe).await
    }

    /// Before ReadyForQuery.
    pub(super) async fn notify(&mut self) -> Result<(), Failure> {
        if self.executor.listening.is_none() || self.executor.transaction.is_open() {
            return Ok(());
        }
        self.after.iter_mut().for_each(AfterCommit::send);
        Box::pin(self.executor.deliver_notifications()).await
    }
}
