//! Transactions are not served yet. Every call of theirs says so in a sentence, so that nobody looks
//! for a mistake of his own.

use flotilla_proto::{coprocessor, kvrpcpb as kv};
use tikv_client::TransactionClient;
use tonic::{Code, Status};

use crate::support::stock::{key, patient};
use crate::support::{TestNode, in_time};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_says_that_it_is_not_served() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let mut calls: Vec<(&str, Status)> = Vec::new();
    macro_rules! refused {
        ($($name:literal $method:ident($request:ty);)+) => {$({
            let answer = wire.kv.clone().$method(<$request>::default()).await;
            calls.push(($name, answer.map(drop).expect_err($name)));
        })+};
    }
    refused! {
        "KvGet" kv_get(kv::GetRequest);
        "KvScan" kv_scan(kv::ScanRequest);
        "KvPrewrite" kv_prewrite(kv::PrewriteRequest);
        "KvPessimisticLock" kv_pessimistic_lock(kv::PessimisticLockRequest);
        "KVPessimisticRollback" kv_pessimistic_rollback(kv::PessimisticRollbackRequest);
        "KvTxnHeartBeat" kv_txn_heart_beat(kv::TxnHeartBeatRequest);
        "KvCheckTxnStatus" kv_check_txn_status(kv::CheckTxnStatusRequest);
        "KvCheckSecondaryLocks" kv_check_secondary_locks(kv::CheckSecondaryLocksRequest);
        "KvCommit" kv_commit(kv::CommitRequest);
        "KvCleanup" kv_cleanup(kv::CleanupRequest);
        "KvBatchGet" kv_batch_get(kv::BatchGetRequest);
        "KvBatchRollback" kv_batch_rollback(kv::BatchRollbackRequest);
        "KvScanLock" kv_scan_lock(kv::ScanLockRequest);
        "KvResolveLock" kv_resolve_lock(kv::ResolveLockRequest);
        "KvGC" kv_gc(kv::GcRequest);
        "KvDeleteRange" kv_delete_range(kv::DeleteRangeRequest);
        "KvFlush" kv_flush(kv::FlushRequest);
        "KvBufferBatchGet" kv_buffer_batch_get(kv::BufferBatchGetRequest);
        "UnsafeDestroyRange" unsafe_destroy_range(kv::UnsafeDestroyRangeRequest);
        "MvccGetByKey" mvcc_get_by_key(kv::MvccGetByKeyRequest);
        "MvccGetByStartTs" mvcc_get_by_start_ts(kv::MvccGetByStartTsRequest);
        "GetLockWaitInfo" get_lock_wait_info(kv::GetLockWaitInfoRequest);
        "BroadcastTxnStatus" broadcast_txn_status(kv::BroadcastTxnStatusRequest);
        "CheckLeader" check_leader(kv::CheckLeaderRequest);
        "GetStoreSafeTS" get_store_safe_ts(kv::StoreSafeTsRequest);
        "ReadIndex" read_index(kv::ReadIndexRequest);
        "Coprocessor" coprocessor(coprocessor::Request);
        "CoprocessorStream" coprocessor_stream(coprocessor::Request);
    }
    for (name, status) in calls {
        assert_eq!(status.code(), Code::Unimplemented, "{name}");
        let sentence = format!("{name} is not served by this version of flotilla: ");
        let reason = status.message().strip_prefix(&sentence);
        let reason = reason.unwrap_or_else(|| panic!("{name}: {status}"));
        assert!(reason.contains(' '), "{name}: {reason}");
    }
    node.stop().await;
}

/// The stock client's user sees the sentence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stock_client_hands_the_sentence_on() {
    let mut node = TestNode::start().await;
    let client = TransactionClient::new_with_config(vec![node.addr()], patient())
        .await
        .expect("it connects");
    let first = client.current_timestamp().await.expect("a timestamp");
    let mut transaction = client.begin_optimistic().await.expect("it begins");
    let read = in_time("a read", transaction.get(key("k"))).await;
    let text = format!("{:?}", read.expect_err("it is not served"));
    assert!(text.contains("KvGet is not served"), "{text}");
    assert!(text.contains("RawKV only"), "{text}");
    transaction
        .put(key("k"), "v")
        .await
        .expect("it is buffered");
    let commit = in_time("a commit", transaction.commit()).await;
    let text = format!("{:?}", commit.expect_err("it is not served"));
    assert!(text.contains("KvPrewrite is not served"), "{text}");
    // What nothing was written for needs no rollback.
    let later = client.current_timestamp().await.expect("a timestamp");
    assert!((later.physical, later.logical) > (first.physical, first.logical));
    node.stop().await;
}
