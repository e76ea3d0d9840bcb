//! The queue that all assigned partitions are forwarded to, read in batches. It calls
//! librdkafka's C interface directly, as `ask` does: the safe binding hands out one message per call, which costs three
//! times the CPU.
//!
//! It never waits: waiting is `wake`'s job, and librdkafka calls that whenever the queue becomes non-empty.

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::source::client::Context;
use crate::source::wake::Wake;
use crate::state::chunk::{Headers, RawRecord};
use crate::types::Offset;

/// At most so many messages are taken out of librdkafka at once; they are handed out and freed before the next ones.
pub const BATCH_RECORDS_MAX: usize = 1024;

/// See the module's text.
pub struct RecordQueue {
    records: *mut sys::rd_kafka_queue_t,
    /// The consumer's own queue: rebalances, answers to commits, errors, log lines.
    callbacks: *mut sys::rd_kafka_queue_t,
    wake: *const Wake,
    batch: Vec<*mut sys::rd_kafka_message_t>,
    headers: Vec<u8>,
    /// Keeps the client alive for as long as the queues are.
    consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka's queues may be used from any thread, `Wake` is `Sync`, and the buffers belong to whoever has the
// queue.
unsafe impl Send for RecordQueue {}

/// One message of a batch, valid while it is handed out.
pub struct Fetched<'a> {
    topic: *mut sys::rd_kafka_topic_t,
    pub partition: i32,
    pub what: Result<RawRecord<'a>, Trouble>,
}

/// A message that is no record.
pub struct Trouble {
    pub code: RDKafkaErrorCode,
    pub offset: i64,
    pub text: String,
}

impl Fetched<'_> {
    /// Identifies the topic for as long as one of its partitions is assigned.
    pub fn topic_key(&self) -> usize {
        self.topic as usize
    }

    pub fn topic_name(&self) -> String {
        if self.topic.is_null() {
            return String::new();
        }
        // SAFETY: the message that `self` borrows from holds a reference to its topic, whose name is a C string.
        unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.topic)) }.to_string_lossy().into_owned()
    }
}

impl RecordQueue {
    /// `wake` is notified whenever the queue stops being empty.
    pub fn new(consumer: Arc<BaseConsumer<Context>>, wake: Arc<Wake>) -> RecordQueue {
        let wake = Arc::into_raw(wake);
        let client = consumer.client().native_ptr();
        // SAFETY: `client` is alive, `consumer` sees to it. The consumer has a group, so it has a consumer queue. `wake`
        // stays valid until the callback is disabled in `drop`.
        let (records, callbacks) = unsafe {
            let records = sys::rd_kafka_queue_new(client);
            sys::rd_kafka_queue_cb_event_enable(records, Some(nonempty), wake.cast_mut().cast());
            (records, sys::rd_kafka_queue_get_consumer(client))
        };
        let batch = vec![ptr::null_mut(); BATCH_RECORDS_MAX];
        RecordQueue { records, callbacks, wake, batch, headers: Vec::new(), consumer }
    }

    /// Whether a poll of the consumer has anything to serve.
    pub fn callbacks_wait(&self) -> bool {
        // SAFETY: the handle is ours until `drop`.
        unsafe { sys::rd_kafka_queue_length(self.callbacks) > 0 }
    }

    /// Leads a partition's messages here. Stopping a partition ends it, so it must be called before every assignment, and
    /// after the partition has stopped.
    pub fn forward(&self, topic: &str, partition: i32) -> Result<(), String> {
        let name = CString::new(topic).map_err(|_| format!("topic {topic:?} has a NUL in its name"))?;
        // SAFETY: the client is alive, the name a C string. The handle is ours and released at once: forwarding belongs to
        // the queue itself, not to the handle.
        unsafe {
            let queue =
                sys::rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), name.as_ptr(), partition);
            if queue.is_null() {
                return Err(format!("{topic} [{partition}] has no queue"));
            }
            sys::rd_kafka_queue_forward(queue, self.records);
            sys::rd_kafka_queue_destroy(queue);
        }
        Ok(())
    }

    /// Sends a commit; the answer comes to the commit callback. (The binding's own asynchronous commit has none: librdkafka
    /// answers only to a queue or to a callback that the binding does not set.)
    pub fn commit(&self, offsets: &TopicPartitionList) -> Result<(), RDKafkaErrorCode> {
        let client = self.consumer.client().native_ptr();
        // SAFETY: client, list and queue live; the list is copied.
        let error = unsafe { sys::rd_kafka_commit_queue(client, offsets.ptr(), self.callbacks, None, ptr::null_mut()) };
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(error.into()) }
    }

    /// Hands out what is there, at most `records_max` messages and without waiting. Returns how many.
    pub fn take(&mut self, records_max: usize, mut hand_out: impl FnMut(Fetched<'_>)) -> usize {
        let room = records_max.min(self.batch.len());
        // SAFETY: the array has room for `room` messages. A negative result (never with a valid queue) counts as none.
        let count = unsafe { sys::rd_kafka_consume_batch_queue(self.records, 0, self.batch.as_mut_ptr(), room) };
        let count = usize::try_from(count).unwrap_or(0);
        let mut batch = Batch { messages: &self.batch[..count], freed: 0 };
        for index in 0..count {
            // SAFETY: `batch` frees the message only after it was handed out, and `headers` is not touched meanwhile.
            hand_out(unsafe { read(batch.messages[index], &mut self.headers) });
            batch.free_one();
        }
        count
    }
}

/// Messages taken out of librdkafka; frees what is left even when the receiver panics, because one that leaks makes the
/// client's end wait for ever.
struct Batch<'a> {
    messages: &'a [*mut sys::rd_kafka_message_t],
    freed: usize,
}

impl Batch<'_> {
    fn free_one(&mut self) {
        let message = self.messages[self.freed];
        self.freed += 1;
        // SAFETY: each message is freed once, `freed` sees to it, and nobody borrows from it any more.
        unsafe { sys::rd_kafka_message_destroy(message) };
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        while self.freed < self.messages.len() {
            self.free_one();
        }
    }
}

/// # Safety
/// `message` must be a live message of a consumer and outlive the result.
unsafe fn read<'a>(message: *mut sys::rd_kafka_message_t, headers: &'a mut Vec<u8>) -> Fetched<'a> {
    // SAFETY: see above. librdkafka keeps key and payload unchanged until the message is freed.
    unsafe {
        let m = &*message;
        let (topic, partition) = (m.rkt, m.partition);
        if m.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            let text = sys::rd_kafka_message_errstr(message);
            let text = if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() };
            return Fetched { topic, partition, what: Err(Trouble { code: m.err.into(), offset: m.offset, text }) };
        }
        pack_headers(message, headers);
        let record = RawRecord {
            offset: Offset(m.offset),
            timestamp_ms: sys::rd_kafka_message_timestamp(message, ptr::null_mut()),
            key: bytes(m.key, m.key_len),
            value: bytes(m.payload, m.len),
            headers,
        };
        Fetched { topic, partition, what: Ok(record) }
    }
}

/// # Safety
/// A non-null `at` must point to `len` bytes that live and stay unchanged for `'a`.
unsafe fn bytes<'a>(at: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: see above.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at.cast(), len) })
}

/// # Safety
/// `message` must be a live message of a consumer that is no error.
unsafe fn pack_headers(message: *mut sys::rd_kafka_message_t, into: &mut Vec<u8>) {
    into.clear();
    let mut list = ptr::null_mut();
    // SAFETY: see above. The list, its names (C strings) and values belong to the message.
    unsafe {
        if sys::rd_kafka_message_headers(message, &mut list) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
        let mut index = 0;
        while sys::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut len)
            == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            Headers::pack(into, &CStr::from_ptr(name).to_string_lossy(), bytes(value, len));
            index += 1;
        }
    }
}

/// Called by librdkafka's threads with the queue locked: must be short and must not call back.
unsafe extern "C" fn nonempty(_: *mut sys::rd_kafka_t, wake: *mut c_void) {
    // SAFETY: `new` gave it a `Wake` that lives until the callback is disabled.
    unsafe { &*wake.cast::<Wake>() }.notify();
}

impl Drop for RecordQueue {
    fn drop(&mut self) {
        // SAFETY: disabling takes the queue's lock, so no callback runs afterwards and the reference that `new` gave away
        // can be taken back. Both handles are ours; destroying the queue frees the messages in it.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.records, None, ptr::null_mut());
            drop(Arc::from_raw(self.wake));
            sys::rd_kafka_queue_destroy(self.records);
            sys::rd_kafka_queue_destroy(self.callbacks);
        }
    }
}
