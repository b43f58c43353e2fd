//! Jenkins' lookup3 as PostgreSQL uses it for extended hashes, with seed 0 (`src/common/hashfn.c`).
//!
//! PostgreSQL's result depends on the server's byte order; this is the little-endian one.
//! A seed is not supported: with seed 0 PostgreSQL skips the seeding round altogether.

const START: u32 = 0x9e37_79b9;
const START_OFFSET: u32 = 3_923_095;

/// `hash_bytes_extended(bytes, len, 0)`.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    // The length enters the state as PostgreSQL's 32-bit int does.
    let mut state = State::new(bytes.len() as u32);
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        state.add(word(block, 0), word(block, 4), word(block, 8));
        state.mix();
    }
    let mut tail = [0u8; 12];
    let rest = blocks.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    // The lowest byte of the third word is reserved for the length, so the tail's last three bytes sit above it.
    state.add(word(&tail, 0), word(&tail, 4), word(&tail, 8) << 8);
    state.finish()
}

/// `hash_bytes_uint32_extended(value, 0)`.
pub(super) fn hash_uint32(value: u32) -> u64 {
    let mut state = State::new(4);
    state.add(value, 0, 0);
    state.finish()
}

/// `hashint8extended(value, 0)`: folds the high half in so that every integer width gives the same hash
/// (`src/backend/access/hash/hashfunc.c`).
pub(super) fn hash_int8(value: i64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    hash_uint32(low ^ if value >= 0 { high } else { !high })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    fn new(len: u32) -> State {
        let start = START.wrapping_add(len).wrapping_add(START_OFFSET);
        State { a: start, b: start, c: start }
    }

    fn add(&mut self, a: u32, b: u32, c: u32) {
        self.a = self.a.wrapping_add(a);
        self.b = self.b.wrapping_add(b);
        self.c = self.c.wrapping_add(c);
    }

    fn mix(&mut self) {
        let State { a, b, c } = self;
        step(a, c, *b, 4);
        step(b, a, *c, 6);
        step(c, b, *a, 8);
        step(a, c, *b, 16);
        step(b, a, *c, 19);
        step(c, b, *a, 4);
    }

    fn finish(self) -> u64 {
        let State { mut a, mut b, mut c } = self;
        last(&mut c, b, 14);
        last(&mut a, c, 11);
        last(&mut b, a, 25);
        last(&mut c, b, 16);
        last(&mut a, c, 4);
        last(&mut b, a, 14);
        last(&mut c, b, 24);
        u64::from(b) << 32 | u64::from(c)
    }
}

/// `x -= y; x ^= rot(y, bits); y += z`
fn step(x: &mut u32, y: &mut u32, z: u32, bits: u32) {
    *x = x.wrapping_sub(*y) ^ y.rotate_left(bits);
    *y = y.wrapping_add(z);
}

/// `x ^= y; x -= rot(y, bits)`
fn last(x: &mut u32, y: u32, bits: u32) {
    *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
}
