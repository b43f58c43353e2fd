//! Cancel keys of the clients of this gateway.

use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exec::cancel::CancelSlot;

type Keys = HashMap<u32, (Vec<u8>, Arc<CancelSlot>)>;

#[derive(Debug, Default)]
pub struct Cancels {
    keys: Mutex<Keys>,
}

const KEY_BYTES: usize = 4;
/// Systems number processes below it.
const PROCESS_IDS_MAX: u32 = 1 << 30;

impl Cancels {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process number that no other client has, and a secret.
    pub fn add(&self, slot: Arc<CancelSlot>) -> (u32, Vec<u8>) {
        let secret = rand::random::<[u8; KEY_BYTES]>().to_vec();
        let mut keys = self.keys();
        loop {
            // Shown as a process id: positive, and none that a server's process has. A client that knows its own notifications by
            // the process id does not take another's for them.
            let number = rand::random::<u32>() >> 1 | PROCESS_IDS_MAX;
            if let Entry::Vacant(place) = keys.entry(number) {
                place.insert((secret.clone(), slot));
                return (number, secret);
            }
        }
    }

    pub fn remove(&self, number: u32) {
        self.keys().remove(&number);
    }

    /// None for a wrong key.
    pub fn find(&self, number: u32, secret: &[u8]) -> Option<Arc<CancelSlot>> {
        let keys = self.keys();
        let (known, slot) = keys.get(&number)?;
        (known.as_slice() == secret).then(|| Arc::clone(slot))
    }
}
