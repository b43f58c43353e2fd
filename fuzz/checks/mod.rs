//! What fuzzing checks: one function per kind of bytes that a peer sends, `&[u8]` in, a panic if something is wrong.
//!
//! cargo-fuzz's targets (`fuzz_targets/`) and the deterministic test (`tests/tests/corpus.rs`) call the same functions, so an
//! input that once failed is a file in `seeds/` and is checked ever after. Only the gateway's public functions are used: nothing
//! in the product knows of this.

mod bind;
mod copy;
mod frames;
mod plan;
mod scram;
mod sql;
mod startup;
mod values;

/// One kind of input.
pub struct Target {
    /// Also the folder of its seeds, and the name of its cargo-fuzz target.
    pub name: &'static str,
    pub check: fn(&[u8]),
    /// What checking may allocate at most: so many bytes, and so many for each byte of input. No length that an input merely
    /// claims fits in there.
    pub memory: (usize, usize),
}

pub const TARGETS: &[Target] = &[
    Target { name: "client_frames", check: frames::client, memory: (64 << 10, 64) },
    Target { name: "server_frames", check: frames::server, memory: (64 << 10, 128) },
    Target { name: "startup", check: startup::check, memory: (64 << 10, 64) },
    Target { name: "scram", check: scram::check, memory: (64 << 10, 64) },
    Target { name: "bind", check: bind::check, memory: (64 << 10, 256) },
    Target { name: "copy_split", check: copy::check, memory: (64 << 10, 256) },
    Target { name: "sql_text", check: sql::check, memory: (64 << 10, 512) },
    Target { name: "plan", check: plan::check, memory: (1 << 20, 4096) },
    Target { name: "values", check: values::check, memory: (64 << 10, 64) },
];

/// Sizes of the pieces that a stream arrives in; the input's first byte chooses them.
pub(crate) struct Cuts {
    state: u32,
    piece_bytes_max: u32,
}

impl Cuts {
    /// What the input says of cuts, and the rest of it.
    pub(crate) fn of(data: &[u8]) -> (Cuts, &[u8]) {
        let (first, rest) = data.split_first().unwrap_or((&0, &[]));
        (Cuts { state: u32::from(*first) + 1, piece_bytes_max: 1 + u32::from(first % 13) }, rest)
    }

    /// Splits the next piece off.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> &'a [u8] {
        // xorshift32
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        let length = bytes.len().min(1 + (self.state % self.piece_bytes_max) as usize);
        let (piece, rest) = bytes.split_at(length);
        *bytes = rest;
        piece
    }
}
