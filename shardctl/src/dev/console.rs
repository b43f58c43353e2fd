//! What the cluster says to its terminal. A reader that has gone is no reason to stop a cluster.

use std::io::Write;

pub fn print(lines: &[String]) {
    let mut stdout = std::io::stdout().lock();
    for line in lines {
        let _ = writeln!(stdout, "{line}");
    }
    let _ = stdout.flush();
}

pub fn warn(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
