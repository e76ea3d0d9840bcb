//! Questions to the brokers that the safe binding cannot ask, or answers it cannot read: a topic's id, the ends of many logs
//! regardless of open transactions, metadata of commits that need not be text. Here and in `queue` a client's
//! records and questions go through librdkafka's C interface directly; `config::kafka` and the demonstration use it for settings.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::client::Client;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::source::client::Context;

/// A code and a sentence.
pub type Refusal = (RDKafkaErrorCode, String);

/// Which admin call, and what its options are named in librdkafka.
use sys::rd_kafka_admin_op_t as Op;

/// The topic's id; `None` where the broker has none. `broker` asks that one instead of the controller.
pub fn topic_id(
    client: &Client<Context>,
    topic: &str,
    broker: Option<i32>,
    deadline: Duration,
) -> Result<Option<String>, Refusal> {
    let name = CString::new(topic).map_err(|_| (RDKafkaErrorCode::InvalidTopic, format!("{topic:?} has a NUL")))?;
    let question = Question::new(client, Op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, broker, deadline)?;
    // SAFETY: client, options and queue live; the list of names is copied by the call that makes a collection of it; the
    // description belongs to the event, which outlives its use.
    unsafe {
        let mut names: [*const c_char; 1] = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        sys::rd_kafka_DescribeTopics(client.native_ptr(), topics, question.options, question.queue);
        sys::rd_kafka_TopicCollection_destroy(topics);
        let answer = question.answer(deadline)?;
        let mut count = 0;
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.0);
        let found = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count != 1 {
            return Err((RDKafkaErrorCode::BadMessage, format!("{count} descriptions of topic {topic}")));
        }
        refused(sys::rd_kafka_TopicDescription_error(*found))?;
        let id = sys::rd_kafka_TopicDescription_topic_id(*found);
        let most = sys::rd_kafka_Uuid_most_significant_bits(id);
        if most == 0 && sys::rd_kafka_Uuid_least_significant_bits(id) == 0 {
            return Ok(None);
        }
        Ok(Some(CStr::from_ptr(sys::rd_kafka_Uuid_base64str(id)).to_string_lossy().into_owned()))
    }
}

/// A log's begin and end (high watermark).
type Log = Result<(i64, i64), Refusal>;

/// Begin and end of logs, in their order. A consumer's own query of the end stops before the first open
/// transaction instead. Fails as a whole where one of them has no leader.
pub fn logs(client: &Client<Context>, of: &[(&str, i32)], deadline: Duration) -> Result<Vec<Log>, Refusal> {
    use sys::rd_kafka_OffsetSpec_t as Spec;
    if of.is_empty() {
        return Ok(Vec::new());
    }
    // Both are under way before either is waited for.
    let begins = Offsets::ask(client, of, Spec::RD_KAFKA_OFFSET_SPEC_EARLIEST, deadline)?;
    let ends = Offsets::ask(client, of, Spec::RD_KAFKA_OFFSET_SPEC_LATEST, deadline)?;
    let (begins, ends) = (begins.answer(of, deadline)?, ends.answer(of, deadline)?);
    Ok(begins.into_iter().zip(ends).map(|(begin, end)| Ok((begin?, end?))).collect())
}

/// A question for an offset of each of some partitions.
struct Offsets(Question);

impl Offsets {
    fn ask(
        client: &Client<Context>,
        of: &[(&str, i32)],
        spec: sys::rd_kafka_OffsetSpec_t,
        deadline: Duration,
    ) -> Result<Offsets, Refusal> {
        let question = Question::new(client, Op::RD_KAFKA_ADMIN_OP_LISTOFFSETS, None, deadline)?;
        let mut list = TopicPartitionList::new();
        for (topic, partition) in of {
            list.add_partition_offset(topic, *partition, rdkafka::Offset::from_raw(spec as i64))
                .map_err(|e| (RDKafkaErrorCode::InvalidArgument, e.to_string()))?;
        }
        // SAFETY: client, options, list and queue live; the list is copied by the call.
        unsafe { sys::rd_kafka_ListOffsets(client.native_ptr(), list.ptr(), question.options, question.queue) };
        Ok(Offsets(question))
    }

    fn answer(self, of: &[(&str, i32)], deadline: Duration) -> Result<Vec<Result<i64, Refusal>>, Refusal> {
        let answer = self.0.answer(deadline)?;
        let mut found = HashMap::new();
        // SAFETY: the infos and their names belong to the event, which outlives their use.
        unsafe {
            let mut count = 0;
            let result = sys::rd_kafka_event_ListOffsets_result(answer.0);
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
            for index in 0..count {
                let info = &*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
                let topic = CStr::from_ptr(info.topic).to_string_lossy().into_owned();
                let offset = match info.err {
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(info.offset),
                    error => Err((error.into(), format!("log of {topic} [{}]", info.partition))),
                };
                found.insert((topic, info.partition), offset);
            }
        }
        let none = |topic: &str, partition| {
            Err((RDKafkaErrorCode::BadMessage, format!("no answer for the log of {topic} [{partition}]")))
        };
        let take = |(topic, partition): &(&str, i32)| {
            found.remove(&((*topic).to_owned(), *partition)).unwrap_or_else(|| none(topic, *partition))
        };
        Ok(of.iter().map(take).collect())
    }
}

/// The metadata that was committed with each element; what is not UTF-8 was not written by us and reads as replacement
/// characters.
pub fn metadata(list: &TopicPartitionList) -> Vec<String> {
    // SAFETY: the list has `cnt` elements, each with `metadata_size` bytes of metadata or none.
    unsafe {
        let list = &*list.ptr();
        (0..usize::try_from(list.cnt).unwrap_or(0))
            .map(|index| {
                let element = &*list.elems.add(index);
                if element.metadata.is_null() {
                    return String::new();
                }
                let bytes = std::slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size);
                String::from_utf8_lossy(bytes).into_owned()
            })
            .collect()
    }
}

/// One admin call's options and the queue for its answer.
struct Question {
    options: *mut sys::rd_kafka_AdminOptions_t,
    queue: *mut sys::rd_kafka_queue_t,
}

impl Question {
    fn new(client: &Client<Context>, op: Op, broker: Option<i32>, deadline: Duration) -> Result<Question, Refusal> {
        let mut text = [0 as c_char; 256];
        // SAFETY: the client lives as long as the question does (both stay within one call); `text` has the size given.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(client.native_ptr(), op);
            let question = Question { options, queue: sys::rd_kafka_queue_new(client.native_ptr()) };
            let mut error = sys::rd_kafka_AdminOptions_set_request_timeout(
                options,
                deadline.as_millis() as c_int,
                text.as_mut_ptr(),
                text.len(),
            );
            if let (Some(broker), RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR) = (broker, error) {
                error = sys::rd_kafka_AdminOptions_set_broker(options, broker, text.as_mut_ptr(), text.len());
            }
            if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err((error.into(), CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()));
            }
            Ok(question)
        }
    }

    fn answer(&self, deadline: Duration) -> Result<Answer, Refusal> {
        // SAFETY: the queue lives; the event is ours until `Answer` is dropped, and its text belongs to it.
        unsafe {
            let event = sys::rd_kafka_queue_poll(self.queue, deadline.as_millis() as c_int);
            if event.is_null() {
                return Err((RDKafkaErrorCode::OperationTimedOut, format!("no answer within {deadline:?}")));
            }
            let answer = Answer(event);
            let error = sys::rd_kafka_event_error(event);
            if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                let text = sys::rd_kafka_event_error_string(event);
                return Err((error.into(), CStr::from_ptr(text).to_string_lossy().into_owned()));
            }
            Ok(answer)
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // SAFETY: both are ours and used nowhere else; an answer that comes later finds its queue closed and is freed.
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue);
            sys::rd_kafka_AdminOptions_destroy(self.options);
        }
    }
}

struct Answer(*mut sys::rd_kafka_event_t);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing borrows from it any more.
        unsafe { sys::rd_kafka_event_destroy(self.0) };
    }
}

/// # Safety
/// `error` must be null or a live error.
unsafe fn refused(error: *const sys::rd_kafka_error_t) -> Result<(), Refusal> {
    // SAFETY: see above.
    unsafe {
        if error.is_null() {
            return Ok(());
        }
        let code = sys::rd_kafka_error_code(error);
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Ok(());
        }
        let text = sys::rd_kafka_error_string(error);
        Err((code.into(), CStr::from_ptr(text).to_string_lossy().into_owned()))
    }
}
