//! Every bound of the engine, by name, with its unit.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct MoveLimits {
    /// One statement of the engine's own on a shard, but for the long ones below.
    pub statement_timeout_ms: u64,
    /// Checksums, boundaries, counts, deletion batches.
    pub long_statement_timeout_ms: u64,
    /// Row locks of chunks and of the sweeper. Well below PostgreSQL's `deadlock_timeout` (1 s), so that an application is
    /// never the victim of a deadlock with them.
    pub row_lock_timeout_ms: u64,
    /// Row locks of a chunk, which holds many: an application that waits for one of them, while the chunk waits for one of
    /// its own, waits this long. What is locked for longer is met by a smaller chunk.
    pub chunk_lock_timeout_ms: u64,
    pub chunk_retry_pause_ms: u64,
    /// How long the owner's rows stay locked for the other shard's answer: one that does not answer must not keep the
    /// application waiting.
    pub locked_wait_ms: u64,
    /// Table locks of trigger DDL: what an application's statement may at most be delayed by one attempt.
    pub ddl_lock_timeout_ms: u64,
    pub ddl_retry_pause_ms: u64,
    /// Attempts at one table before the step reports itself degraded and begins again.
    pub ddl_attempts_max: u32,
    /// Hold to the fence's commit; beyond it the cutover undoes itself.
    pub hold_bound_ms: u64,
    /// For gateways to acknowledge where nothing is held.
    pub acknowledge_timeout_ms: u64,
    pub cutover_backoff_ms: u64,
    pub cutover_backoff_max_ms: u64,
    pub retry_backoff_ms: u64,
    pub retry_backoff_max_ms: u64,
    /// What a chunk may take: an application waits this long for a row that is in it.
    pub chunk_target_ms: u64,
    /// Also the smallest that the time makes a chunk: on a busy machine most of a small one's time is not its rows'.
    pub chunk_rows_initial: u64,
    /// The smallest that rows which somebody holds make it.
    pub chunk_rows_min: u64,
    pub chunk_rows_max: u64,
    pub verify_chunk_rows: u64,
    /// A chunk that differs is looked at again this often before rows are locked.
    pub verify_looks_max: u32,
    pub verify_passes_max: u32,
    pub sweep_batch_rows: i64,
    pub sweep_idle_ms: u64,
    pub sweep_busy_ms: u64,
    pub sweep_held_ms: u64,
    /// A row that comes and goes under the settler's eyes is left for later after this many looks.
    pub settle_attempts_max: u32,
    pub delete_batch_rows: u64,
    pub delete_pause_ms: u64,
    pub tidy_timeout_ms: u64,
    pub cancel_tidy_timeout_ms: u64,
    /// A guarded gateway's transaction may keep the epoch floor from rising this long before it is ended.
    pub floor_wait_ms: u64,
    pub progress_store_interval_ms: u64,
    pub ended_moves_kept_max: usize,
}

impl Default for MoveLimits {
    fn default() -> Self {
        MoveLimits {
            statement_timeout_ms: 10_000,
            long_statement_timeout_ms: 600_000,
            row_lock_timeout_ms: 250,
            chunk_lock_timeout_ms: 30,
            chunk_retry_pause_ms: 10,
            locked_wait_ms: 400,
            ddl_lock_timeout_ms: 50,
            ddl_retry_pause_ms: 100,
            ddl_attempts_max: 100,
            hold_bound_ms: 1_000,
            acknowledge_timeout_ms: 30_000,
            cutover_backoff_ms: 500,
            cutover_backoff_max_ms: 30_000,
            retry_backoff_ms: 100,
            retry_backoff_max_ms: 10_000,
            chunk_target_ms: 100,
            chunk_rows_initial: 2_000,
            chunk_rows_min: 50,
            chunk_rows_max: 50_000,
            verify_chunk_rows: 20_000,
            verify_looks_max: 4,
            verify_passes_max: 6,
            sweep_batch_rows: 500,
            sweep_idle_ms: 200,
            sweep_busy_ms: 20,
            sweep_held_ms: 2,
            settle_attempts_max: 8,
            delete_batch_rows: 2_000,
            delete_pause_ms: 5,
            tidy_timeout_ms: 5_000,
            cancel_tidy_timeout_ms: 60_000,
            floor_wait_ms: 300,
            progress_store_interval_ms: 500,
            ended_moves_kept_max: 1_000,
        }
    }
}

impl MoveLimits {
    /// `base * 2^attempt`, at most `max`.
    pub fn backoff(base_ms: u64, max_ms: u64, attempt: u32) -> Duration {
        Duration::from_millis(base_ms.saturating_mul(1 << attempt.min(16)).min(max_ms))
    }
}
