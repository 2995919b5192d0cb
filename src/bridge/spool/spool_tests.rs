//! What is kept, forgotten, left and found again, with a real disk.

use super::*;
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::lifecycle::{CallEvent, CallRef};
use crate::store::leases::FencingToken;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn record(call: u32) -> Arc<Record> {
    let call = CallRef {
        call_sid: CallSid::parse(&format!("CA{call}")).unwrap(),
        organization: OrganizationId(uuid::Uuid::nil()),
        agent: AgentId(uuid::Uuid::nil()),
    };
    let token = FencingToken(1);
    let what = What::Event { at: Timestamp::UNIX_EPOCH, event: CallEvent::Connected { token } };
    Arc::new(Record { call, token, what })
}

async fn open(dir: &tempfile::TempDir) -> (Spool, Metrics) {
    let metrics = Metrics::new();
    (Spool::open(dir.path().join("spool"), &metrics).await, metrics)
}

/// What a process finds that starts here after this one.
fn found(dir: &tempfile::TempDir) -> Vec<String> {
    let (book, _) = Book::open(&dir.path().join("spool")).unwrap();
    let rows = book.read(&book.keys().unwrap()).unwrap();
    let call = |row: Vec<u8>| serde_json::from_slice::<Record>(&row).unwrap().call.call_sid.to_string();
    rows.into_iter().map(|(_, row)| call(row)).collect()
}

/// In real time, because the disk is waited for by a thread.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not so in time: {what}");
}

#[tokio::test]
async fn what_is_kept_and_not_done_is_found_by_the_next_process_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, metrics) = open(&dir).await;
    let tickets: Vec<_> = (1..=20).map(|call| spool.keep(record(call)).unwrap()).collect();
    assert!(tickets.is_sorted_by(|one, next| one < next), "however fast they come");
    until("all are on disk", || spool.shared().unwrap().lock().rows == 20).await;
    assert!(metrics.spool_commits.get() < 10, "in common commits");
    spool.done(tickets[..18].iter().copied());
    spool.close().await;
    assert_eq!(found(&dir), ["CA19", "CA20"]);

    let (spool, metrics) = open(&dir).await;
    assert_eq!((spool.left(), metrics.spool_records.get()), (2, 2));
    let left = spool.shared().unwrap().read(Ticket::default(), 10).await;
    assert_eq!(
        left.iter().map(|(_, record)| record.call.call_sid.as_str()).collect::<Vec<_>>(),
        ["CA19", "CA20"]
    );
    assert!(spool.keep(record(21)).unwrap() > left[1].0, "also when the clock was set back");
    spool.done(left.into_iter().map(|(ticket, _)| ticket));
    spool.close().await;
    assert_eq!(found(&dir), ["CA21"]);
}

#[test]
fn what_is_done_before_its_turn_to_be_written_never_is() {
    let metrics = Metrics::new();
    let (_, ended) = oneshot::channel();
    // Nobody writes.
    let leash = Leash { shared: Arc::new(Shared::new(&metrics)), ended: Mutex::new(Some(ended)) };
    let spool = Spool(Some(Arc::new(leash)));
    let tickets: Vec<_> = (1..=3).map(|call| spool.keep(record(call)).unwrap()).collect();
    spool.done([tickets[1]]);
    let is_idle = || {
        let inbox = spool.shared().unwrap().lock();
        (inbox.keep.len(), inbox.forget.clone())
    };
    assert_eq!(is_idle(), (2, Vec::new()), "the disk never hears of it");
    spool.shared().unwrap().lock().written_below = tickets[2];
    spool.done([tickets[0], tickets[2]]);
    assert_eq!(is_idle(), (0, vec![tickets[0]]), "what may have been written has to be forgotten");
}

#[tokio::test]
async fn what_a_call_leaves_can_be_read_at_once_and_what_is_refused_is_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, metrics) = open(&dir).await;
    let shared = Arc::clone(spool.shared().unwrap());
    let tickets: Vec<_> = (1..=3).map(|call| spool.keep(record(call)).unwrap()).collect();
    assert!(shared.read(Ticket::default(), 10).await.is_empty(), "its call still works on it");
    spool.leave(tickets.iter().copied());
    for _ in 0..2 {
        let read = shared.read(Ticket::default(), 2).await;
        assert_eq!(read.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), tickets[..2]);
        assert_eq!(shared.read(tickets[1], 2).await.len(), 1);
        until("all are on disk", || shared.lock().rows == 3).await;
    }
    spool.refuse(tickets[0], "no");
    spool.done([tickets[1]]);
    assert_eq!((spool.left(), metrics.spool_refused.get()), (1, 1));
    spool.close().await;
    assert_eq!(found(&dir), ["CA3"]);
    assert!(Book::open(&dir.path().join("spool")).unwrap().0.refused()[0].starts_with("no\n{"));
}

#[tokio::test]
async fn a_full_spool_takes_nothing_more_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, metrics) = open(&dir).await;
    let first = spool.keep(record(1)).unwrap();
    until("it is on disk", || spool.shared().unwrap().lock().rows == 1).await;
    spool.shared().unwrap().lock().rows = MOST_RECORDS;
    assert_eq!((spool.keep(record(2)), spool.condition()), (None, Condition::Full));
    assert_eq!(metrics.spool_unkept.get(), 1);
    spool.done([first]);
    until("there is room", || spool.condition() == Condition::Good).await;
    assert!(spool.keep(record(3)).is_some());
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_what_was_to_be_kept_stays_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("spool"), b"a file where the directory should be").unwrap();
    let (spool, _) = open(&dir).await;
    assert_eq!(spool.condition(), Condition::Broken);
    let ticket = spool.keep(record(1)).expect("it is kept until the disk is back");
    spool.leave([ticket]);
    assert_eq!(spool.shared().unwrap().read(Ticket::default(), 10).await.len(), 1);
    for call in 2..=QUEUE as u32 {
        spool.keep(record(call)).unwrap();
    }
    assert_eq!(spool.keep(record(0)), None, "and no more than that");
    fs::remove_file(dir.path().join("spool")).unwrap();
    spool.close().await;
    assert_eq!(found(&dir).len(), QUEUE, "the disk was back in time");
}

#[tokio::test]
async fn a_disk_that_comes_back_brings_what_earlier_processes_have_left() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir).await;
    // Of a process whose clock was ahead.
    let ahead = Ticket(u64::try_from(Timestamp::now().as_microsecond()).unwrap() + 3_600_000_000);
    spool.shared().unwrap().lock().last = ahead;
    let earlier = spool.keep(record(1)).unwrap();
    spool.close().await;
    fs::rename(dir.path().join("spool"), dir.path().join("away")).unwrap();
    fs::write(dir.path().join("spool"), b"a file where the directory should be").unwrap();

    let shared = Arc::new(Shared::new(&Metrics::new()));
    let (_, ended) = oneshot::channel();
    // Its thread is this test.
    let spool = Spool(Some(Arc::new(Leash { shared: Arc::clone(&shared), ended: Mutex::new(Some(ended)) })));
    let dir = dir.path().join("spool");
    assert!(super::open(&shared, &dir).is_none());
    let own = spool.keep(record(2)).unwrap();
    fs::remove_file(&dir).unwrap();
    fs::rename(dir.with_file_name("away"), &dir).unwrap();
    let left = || shared.lock().left.iter().copied().collect::<Vec<_>>();
    for _ in 0..2 {
        let mut book = super::open(&shared, &dir).expect("the disk is back");
        assert_eq!(left(), [earlier], "and nothing that a call still works on");
        turn_page(&shared, &mut book).unwrap();
        assert_eq!(book.keys().unwrap(), [own.0, earlier.0]);
    }
    assert!(spool.keep(record(3)).unwrap() > earlier, "behind all that is in the file");
    spool.done([earlier]);
    let _reopened = super::open(&shared, &dir);
    assert_eq!(left(), [], "it is done, also while it is still in the file");
}

#[tokio::test]
async fn nobody_else_may_look_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(&dir).await;
    let mode = fs::metadata(dir.path().join("spool")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(spool);
}
