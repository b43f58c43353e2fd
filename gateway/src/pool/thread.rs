//! Which of the gateway's threads this is. Connections are preferred where they were opened: what wakes them comes from there.

use std::cell::Cell;

/// 0: none of those that serve clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thread(pub u16);

thread_local! {
    static THREAD: Cell<Thread> = const { Cell::new(Thread(0)) };
}

impl Thread {
    pub fn current() -> Thread {
        THREAD.get()
    }

    /// This thread is `self` from now on.
    pub fn enter(self) {
        THREAD.set(self);
    }
}
