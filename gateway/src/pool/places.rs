//! The places of a pool: how many connections may be in use. Their number may change while they are taken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

#[derive(Debug)]
pub struct Places {
    free: Semaphore,
    size: Mutex<usize>,
    /// Places that a smaller size has taken away while they were in use: they go when they come back.
    owed: AtomicUsize,
}

/// A place that is taken; dropping it frees it.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    pub fn new(size: usize) -> Arc<Places> {
        let size = size.min(Semaphore::MAX_PERMITS);
        Arc::new(Places { free: Semaphore::new(size), size: Mutex::new(size), owed: AtomicUsize::new(0) })
    }

    pub fn try_take(self: &Arc<Self>) -> Option<Place> {
        self.free.try_acquire().ok()?.forget();
        Some(Place(Arc::clone(self)))
    }

    /// Waits for one, first come, first served. Cancel-safe. None never happens: the places are not closed.
    pub async fn take(self: &Arc<Self>) -> Option<Place> {
        self.free.acquire().await.ok()?.forget();
        Some(Place(Arc::clone(self)))
    }

    pub fn resize(&self, size: usize) {
        let size = size.min(Semaphore::MAX_PERMITS);
        let mut now = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in *now..size {
            if !self.pay() {
                self.free.add_permits(1);
            }
        }
        let fewer = now.saturating_sub(size);
        self.owed.fetch_add(fewer - self.free.forget_permits(fewer), Ordering::Relaxed);
        *now = size;
    }

    /// Whether a place was owed, and is not any more.
    fn pay(&self) -> bool {
        self.owed.load(Ordering::Relaxed) > 0
            && self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| owed.checked_sub(1)).is_ok()
    }

    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.0.pay() {
            self.0.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_use_go_when_they_come_back() {
        let places = Places::new(3);
        let taken: Vec<Place> = (0..3).filter_map(|_| places.try_take()).collect();
        assert!(taken.len() == 3 && places.try_take().is_none());
        places.resize(1);
        drop(taken);
        assert_eq!(places.free(), 1);
        let one = places.try_take();
        places.resize(0);
        places.resize(2);
        assert_eq!(places.free(), 1);
        drop(one);
        assert_eq!(places.free(), 2);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_takes_no_place() {
        let places = Places::new(1);
        let one = places.try_take();
        assert!(tokio::time::timeout(std::time::Duration::ZERO, places.take()).await.is_err());
        drop(one);
        assert_eq!(places.free(), 1);
        assert!(places.take().await.is_some());
    }
}
