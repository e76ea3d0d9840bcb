//! Whether the brokers make a topic when it is first written to. rdkafka's questions to brokers come as futures, which a thread of
//! its own completes; here they are waited for.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use crate::config::Config;
use crate::forward::producer::producer_config;

use super::reason;

const SETTING: &str = "auto.create.topics.enable";

/// What the first broker says of itself; all of them should say the same.
///
/// # Errors
/// Why there is no answer, in words.
pub fn enabled<C: ConsumerContext>(
    config: &Config,
    consumer: &BaseConsumer<C>,
    deadline: Duration,
) -> Result<bool, String> {
    let brokers = consumer.fetch_metadata(Some(&config.topics[0].name), deadline).map_err(|e| reason(&e))?;
    let id = brokers.brokers().first().ok_or("no broker is known")?.id();
    // To librdkafka an administrator is a producer.
    let admin: AdminClient<DefaultClientContext> = producer_config(&config.kafka).create().map_err(|e| reason(&e))?;
    let options = AdminOptions::new().request_timeout(Some(deadline));
    let question = [ResourceSpecifier::Broker(id)];
    let answer = wait(admin.describe_configs(&question, &options), deadline * 2).ok_or("no answer")?;
    let broker = answer.map_err(|e| reason(&e))?.into_iter().next().ok_or("no answer")?;
    let broker = broker.map_err(|code| code.to_string())?;
    let value = broker.get(SETTING).and_then(|entry| entry.value.as_deref());
    value.map(|value| value == "true").ok_or_else(|| format!("the broker does not tell its {SETTING}"))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for one of them; none: no answer in time.
pub fn wait<F: Future>(future: F, deadline: Duration) -> Option<F::Output> {
    let until = Instant::now() + deadline;
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        thread::park_timeout(until.checked_duration_since(Instant::now())?);
    }
}
