//! Several threads sync one log while it is written: every wait ends, nothing goes back.

use super::batch::tests::batch;
use super::buffers::Buffers;
use super::flusher::Flusher;
use super::{FlushPolicy, LogContext, OnDamage, OpenSegments, PartitionLog};
use crate::config::TopicConfig;
use crate::trouble::Troubles;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn open(dir: &std::path::Path, flusher: &Flusher, settings: &[(&str, &str)]) -> Arc<PartitionLog> {
    let settings: BTreeMap<String, String> =
        settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let context = LogContext {
        flusher: flusher.clone(),
        flush: FlushPolicy::Always,
        leader_epoch: 0,
        on_damage: OnDamage::Refuse,
        buffers: Buffers::default(),
        open_segments: OpenSegments::default(),
        troubles: Troubles::default(),
    };
    let config = Arc::new(TopicConfig::from_set(&settings));
    Arc::new(PartitionLog::create(&dir.join("0"), config, context).unwrap())
}

#[test]
fn every_append_becomes_durable_while_three_threads_sync() {
    let dir = tempfile::tempdir().unwrap();
    let flusher = Flusher::default();
    let log = open(dir.path(), &flusher, &[("segment.bytes", "2000")]);
    let threads = flusher.start(3);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut highest = 0;
            while !stop.load(Ordering::SeqCst) {
                let now = *log.durable.borrow();
                assert!(now >= highest, "durable went back from {highest} to {now}");
                highest = now;
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for _ in 0..300 {
                // Two in a row, so that the second comes while the first is being synced.
                log.append(&batch(1, (-1, -1, -1), b"first"), 1_000).unwrap();
                tokio::time::sleep(Duration::from_micros(200)).await;
                let second = log.append(&batch(1, (-1, -1, -1), b"second"), 1_000).unwrap();
                let durable = log.until_durable(second.durable_at);
                tokio::time::timeout(Duration::from_secs(10), durable)
                    .await
                    .expect("a wait for durability never ends")
                    .unwrap();
                assert!(log.offsets().1 >= second.durable_at, "durable records are visible");
            }
        });
        stop.store(true, Ordering::SeqCst);
    });
    flusher.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
