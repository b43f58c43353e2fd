//! The threads that serve clients. Each has a runtime of its own, so that a client and its connections to shards stay on one core,
//! and what a short statement touches is wanted by nobody else. They do not accept, nor follow the control plane.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};

use crate::pool::thread::Thread;
use crate::sql::depth::STACK_BYTES;

/// They end with the process.
pub struct Threads(Vec<Serving>);

struct Serving {
    runtime: Handle,
    clients: Arc<AtomicUsize>,
}

/// A client's share of its thread's load.
pub struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Errors: the system gives no more threads.
    pub fn start(threads: u16) -> io::Result<Threads> {
        let start = |number: u16| {
            let runtime = Builder::new_current_thread().enable_all().thread_stack_size(STACK_BYTES).build()?;
            let handle = runtime.handle().clone();
            let thread = std::thread::Builder::new().name(format!("clients-{number}")).stack_size(STACK_BYTES);
            thread.spawn(move || {
                Thread(number).enter();
                runtime.block_on(std::future::pending::<()>());
            })?;
            Ok(Serving { runtime: handle, clients: Arc::default() })
        };
        (1..=threads.max(1)).map(start).collect::<io::Result<_>>().map(Threads)
    }

    /// The thread with the fewest clients.
    pub fn seat(&self) -> Option<(Seat, &Handle)> {
        let thread = self.0.iter().min_by_key(|thread| thread.clients.load(Ordering::Relaxed))?;
        thread.clients.fetch_add(1, Ordering::Relaxed);
        Some((Seat(Arc::clone(&thread.clients)), &thread.runtime))
    }
}
