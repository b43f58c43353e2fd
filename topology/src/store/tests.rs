use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

const CHILD_DIRECTORY: &str = "RINGWAY_TEST_STORE_CHILD";
const CHILD_TEST: &str = "store::tests::child_that_writes_until_it_is_killed";

fn at(epoch: u64) -> Topology {
    let mut topology = Topology::empty("cluster".into(), "secret".into());
    topology.epoch = Epoch(epoch);
    topology
}

fn move_record(id: u64, text: &str) -> Record {
    Record { kind: RecordKind::Move, id, bytes: text.into() }
}

fn keeps_its_promises(store: &dyn Store) {
    assert!(store.load().unwrap().is_none());
    store.compare_and_set(None, &at(1), None).unwrap();
    let twice = store.compare_and_set(None, &at(1), None);
    assert!(matches!(twice, Err(StoreError::Conflict { expected: None, found: Some(Epoch(1)) })));

    store.compare_and_set(Some(Epoch(1)), &at(2), Some(&move_record(7, "a"))).unwrap();
    let late = store.compare_and_set(Some(Epoch(1)), &at(3), Some(&move_record(7, "lost")));
    assert!(matches!(late, Err(StoreError::Conflict { found: Some(Epoch(2)), .. })));
    assert_eq!(store.load().unwrap(), Some(at(2)));
    assert_eq!(store.get(RecordKind::Move, 7).unwrap(), Some(b"a".to_vec()), "neither was written");

    store.put(&move_record(256, "c")).unwrap();
    store.put(&move_record(9, "b")).unwrap();
    store.put(&Record { kind: RecordKind::Progress, id: 9, bytes: vec![0] }).unwrap();
    let moves = vec![(7, b"a".to_vec()), (9, b"b".to_vec()), (256, b"c".to_vec())];
    assert_eq!(store.all(RecordKind::Move).unwrap(), moves, "in the order of ids");
    store.remove(RecordKind::Move, 9).unwrap();
    store.remove(RecordKind::Move, 9).unwrap();
    assert_eq!(store.get(RecordKind::Move, 9).unwrap(), None);
    assert_eq!(store.get(RecordKind::Progress, 9).unwrap(), Some(vec![0]));
}

#[test]
fn memory() {
    keeps_its_promises(&MemoryStore::new());
}

#[test]
fn sled_and_again_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    keeps_its_promises(&store);
    drop(store);
    let store = SledStore::open(directory.path()).unwrap();
    assert_eq!(store.load().unwrap(), Some(at(2)));
    assert_eq!(store.all(RecordKind::Move).unwrap().len(), 2);
}

#[test]
fn one_owner_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    let second = SledStore::open_within(directory.path(), Duration::from_millis(100));
    assert!(matches!(second, Err(StoreError::Locked { .. })));
    let path = directory.path().to_owned();
    let waiting = std::thread::spawn(move || SledStore::open(&path).map(drop));
    drop(store);
    waiting.join().unwrap().unwrap();
}

#[test]
fn another_format_is_refused() {
    let bytes = encode(&at(1)).unwrap();
    assert_eq!(decode(&bytes).unwrap(), at(1));
    let text = String::from_utf8(bytes).unwrap().replace("\"format\":1", "\"format\":2");
    assert!(matches!(decode(text.as_bytes()), Err(StoreError::Version { found: 2 })));
    assert!(matches!(decode(b"{"), Err(StoreError::Format(_))));
}

/// What the process that is killed does; a test only in name.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(directory) = std::env::var(CHILD_DIRECTORY) else { return };
    let store = SledStore::open(directory.as_ref()).unwrap();
    let mut epoch = store.load().unwrap().map_or(0, |topology| topology.epoch.0);
    loop {
        let expected = (epoch > 0).then_some(Epoch(epoch));
        epoch += 1;
        let record = move_record(1, &epoch.to_string());
        store.compare_and_set(expected, &at(epoch), Some(&record)).unwrap();
        println!("\nacknowledged {epoch}");
    }
}

#[test]
fn every_acknowledged_write_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD_TEST, "--nocapture"])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let mut acknowledged = 0;
        for line in lines {
            let Ok(line) = line else { break };
            if let Some(epoch) = line.strip_prefix("acknowledged ").and_then(|epoch| epoch.parse().ok()) {
                acknowledged = epoch;
                seen += 1;
            }
            // What the pipe still holds has been acknowledged too: read on to its end.
            if seen == 20 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 20 * round, "the child ended by itself");
        let store = SledStore::open(directory.path()).unwrap();
        let found = store.load().unwrap().unwrap().epoch.0;
        assert!(found >= acknowledged, "epoch {acknowledged} was acknowledged, {found} is there");
        let record = store.get(RecordKind::Move, 1).unwrap().unwrap();
        assert_eq!(record, found.to_string().into_bytes(), "topology and record are of one transaction");
    }
}
