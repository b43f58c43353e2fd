//! cargo-fuzz's targets call what is in [`checks`].

pub mod checks;

/// The check of a target by its name.
pub fn check(name: &str, data: &[u8]) {
    if let Some(target) = checks::TARGETS.iter().find(|target| target.name == name) {
        (target.check)(data);
    }
}
