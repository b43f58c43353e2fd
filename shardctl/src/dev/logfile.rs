//! Log files of the cluster's parts, bounded: a large one makes room when its part starts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const LOG_BYTES_MAX: u64 = 64 << 20;
const TAIL_BYTES_MAX: u64 = 4096;

/// Opens `path` for appending; a file over the bound is kept as `NAME.1` first.
pub fn append(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        let mut older = path.as_os_str().to_owned();
        older.push(".1");
        std::fs::rename(path, older)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The end of what was written behind byte `start`, for an error text.
pub fn tail(path: &Path, start: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(TAIL_BYTES_MAX))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|_| format!("see {}", path.display()))
}
