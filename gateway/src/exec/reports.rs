//! Settings that clients are told of (ParameterStatus): what they are, and what the client knows.
//!
//! PostgreSQL tells before ReadyForQuery what has changed since the last one, whatever made it change: SET, RESET, the end of a
//! transaction. Here a shard says what a setting's new value is, and the transaction remembers what it goes back to.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;

use crate::wire::backend;

pub type Values = Arc<BTreeMap<String, String>>;

/// One of a session.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    told: Values,
    now: Values,
    /// Of a transaction that has changed some.
    transaction: Option<Before>,
}

#[derive(Clone, Debug)]
struct Before {
    /// After a rollback.
    before: Values,
    /// After a commit: without SET LOCAL.
    session: Values,
}

/// At a savepoint. None: the transaction had changed nothing.
#[derive(Clone, Debug)]
pub struct Mark(Option<(Values, Values)>);

impl Reports {
    /// What the client was told when it logged in.
    pub fn new(told: &[(String, String)]) -> Reports {
        let told: Values = Arc::new(told.iter().cloned().collect());
        Reports { now: Arc::clone(&told), told, transaction: None }
    }

    /// What it is, if it is one that is told.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.now.get(name).map(String::as_str)
    }

    /// A shard tells of new values. `local`: up to the end of the transaction.
    pub fn changed(&mut self, values: Vec<(String, String)>, in_transaction: bool, local: bool) {
        if values.is_empty() {
            return;
        }
        if in_transaction && self.transaction.is_none() {
            let (before, session) = (Arc::clone(&self.now), Arc::clone(&self.now));
            self.transaction = Some(Before { before, session });
        }
        for (name, value) in values {
            if let Some(transaction) = self.transaction.as_mut().filter(|_| !local) {
                Arc::make_mut(&mut transaction.session).insert(name.clone(), value.clone());
            }
            Arc::make_mut(&mut self.now).insert(name, value);
        }
    }

    pub fn committed(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.now = transaction.session;
        }
    }

    pub fn rolled_back(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.now = transaction.before;
        }
    }

    pub fn mark(&self) -> Mark {
        Mark(self.transaction.as_ref().map(|transaction| (Arc::clone(&self.now), Arc::clone(&transaction.session))))
    }

    /// Back to a savepoint.
    pub fn rolled_back_to(&mut self, mark: &Mark) {
        let Some(transaction) = &mut self.transaction else { return };
        let (now, session) =
            mark.0.clone().unwrap_or_else(|| (Arc::clone(&transaction.before), Arc::clone(&transaction.before)));
        self.now = now;
        transaction.session = session;
    }

    /// What the settings are, as far as the client is told.
    pub fn now(&self) -> Values {
        Arc::clone(&self.now)
    }

    /// The client knows all.
    pub fn told(&mut self) {
        self.told = Arc::clone(&self.now);
    }

    /// There may be something that the client does not know yet.
    pub fn is_pending(&self) -> bool {
        !Arc::ptr_eq(&self.told, &self.now)
    }

    /// What the client does not know yet.
    pub fn tell(&mut self, out: &mut BytesMut) {
        if !self.is_pending() {
            return;
        }
        for (name, value) in self.now.iter() {
            if self.told.get(name) != Some(value) {
                backend::parameter_status(out, name, value);
            }
        }
        self.told = Arc::clone(&self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reports: &mut Reports) -> String {
        let mut out = BytesMut::new();
        reports.tell(&mut out);
        String::from_utf8_lossy(&out).chars().filter(|c| c.is_ascii_graphic()).collect()
    }

    fn to(value: &str) -> Vec<(String, String)> {
        vec![("TimeZone".to_owned(), value.to_owned())]
    }

    #[test]
    fn values_go_back_with_the_transaction() {
        let mut reports = Reports::new(&to("UTC"));
        assert_eq!(told(&mut reports), "");
        reports.changed(to("Asia"), true, false);
        let mark = reports.mark();
        reports.changed(to("Local"), true, true);
        assert_eq!(told(&mut reports), "STimeZoneLocal");
        reports.rolled_back_to(&mark);
        assert_eq!(told(&mut reports), "STimeZoneAsia");
        reports.changed(to("Local"), true, true);
        let mut other = reports.clone();
        reports.committed();
        assert_eq!(told(&mut reports), "");
        other.rolled_back();
        assert_eq!(told(&mut other), "STimeZoneUTC");
        assert_eq!(told(&mut other), "");
    }
}
