//! What both examples need around the thing they show: where the services are, a topic of their own, records in it.

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postgres::{Client, NoTls};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const DEADLINE: Duration = Duration::from_secs(30);

/// Where an example runs: `bin/services up` starts what the defaults name.
pub struct Place {
    pub bootstrap: String,
    pub dsn: String,
    /// Makes the names of topics and consumer groups unique.
    pub suffix: String,
}

impl Place {
    /// The broker and an empty database on the server that `eval "$(bin/services env)"` names, those of `bin/services up`; a
    /// database that an earlier run has left is replaced. It belongs to one shard, so it is not shared with others.
    /// What the engine has to say is logged to stderr.
    pub fn of_its_own(database: &str) -> Result<Place> {
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let server = variable("FOREBAY_TEST_PG_A", "host=127.0.0.1 port=15431 user=forebay dbname=forebay");
        let mut client = Client::connect(&server, NoTls)?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
        client.batch_execute(&format!("CREATE DATABASE {database}"))?;
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        Ok(Place {
            bootstrap: variable("FOREBAY_TEST_KAFKA", "127.0.0.1:19092"),
            // The later of two words counts.
            dsn: format!("{server} dbname={database}"),
            suffix: format!("{}-{micros:x}", std::process::id()),
        })
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }
}

/// A topic of the example's own; its drop deletes it.
pub struct Topic {
    pub name: String,
    admin: AdminClient<DefaultClientContext>,
    producer: BaseProducer,
}

impl Topic {
    pub fn create(place: &Place, name: &str, partitions: i32) -> Result<Topic> {
        let name = format!("{name}-{}", place.suffix);
        let admin: AdminClient<DefaultClientContext> = place.client().create()?;
        let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
        for result in block_on(admin.create_topics([&new], &options))? {
            result.map_err(|(name, code)| format!("topic {name}: {code}"))?;
        }
        let producer = place.client().set("enable.idempotence", "true").create()?;
        Ok(Topic { name, admin, producer })
    }

    /// Publishes records (key, value) and returns once the broker has them.
    pub fn publish(&self, records: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        for (key, value) in records {
            self.producer.send(BaseRecord::to(&self.name).key(&key).payload(&value)).map_err(|(error, _)| error)?;
        }
        self.producer.flush(DEADLINE)?;
        Ok(())
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        if let Err(error) = block_on(self.admin.delete_topics(&[&self.name], &AdminOptions::new())) {
            eprintln!("topic {} stays behind: {error}", self.name);
        }
    }
}

/// librdkafka's administration calls come as futures; a thread of its own completes them.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
