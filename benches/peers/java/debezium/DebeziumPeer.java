import io.debezium.connector.jdbc.JdbcSinkConnector;
import io.debezium.connector.jdbc.JdbcSinkConnectorTask;
import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.connect.cli.ConnectStandalone;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.errors.RetriableException;
import org.apache.kafka.connect.runtime.Connect;
import org.apache.kafka.connect.runtime.Herder.Created;
import org.apache.kafka.connect.runtime.rest.entities.ConnectorInfo;
import org.apache.kafka.connect.runtime.standalone.StandaloneHerder;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.util.FutureCallback;

/**
 * The Debezium JDBC sink on Kafka Connect in standalone mode. The user writes no code; what there is here starts the worker, gives it
 * a connector for each job, and looks when its tasks have written what they were handed.
 */
public final class DebeziumPeer {
    private static final long CONNECTOR_SECONDS_MAX = 60;

    /** The job of the moment: Connect makes its tasks itself. */
    private static volatile Job job;

    /** Tasks that have partitions, and how many there will be. */
    private static final Set<SinkTask> WITH_PARTITIONS = ConcurrentHashMap.newKeySet();
    private static volatile int tasks;

    /** Of each partition, the offset behind the last record that was written; a partition is with one task at a time. */
    private static final Map<Integer, Long> NEXT = new ConcurrentHashMap<>();

    /** Debezium's, watched. */
    public static final class Sink extends JdbcSinkConnector {
        @Override
        public Class<? extends Task> taskClass() {
            return SinkTask.class;
        }
    }

    /**
     * Debezium's, watched: it writes within {@code put}. The tasks start one by one, and each that joins makes the group hand out the
     * partitions again, records that were written among them. That is no part of catching up, so nobody begins before everybody has
     * his partitions.
     */
    public static final class SinkTask extends JdbcSinkConnectorTask {
        private static final long LOOK_EVERY_MS = 20;

        private final Job of = job;

        @Override
        public void open(Collection<TopicPartition> partitions) {
            super.open(partitions);
            if (!partitions.isEmpty()) {
                WITH_PARTITIONS.add(this);
            }
        }

        @Override
        public void close(Collection<TopicPartition> partitions) {
            WITH_PARTITIONS.remove(this);
            super.close(partitions);
        }

        @Override
        public void put(Collection<SinkRecord> records) {
            if (records.isEmpty()) {
                super.put(records);
                return;
            }
            if (WITH_PARTITIONS.size() < tasks) {
                context.timeout(LOOK_EVERY_MS);
                throw new RetriableException("not every task has its partitions");
            }
            of.came();
            super.put(records);
            // It keeps what went wrong for its next call.
            if (getLastProcessingException() != null) {
                of.failed(getLastProcessingException());
            } else {
                of.wrote(fresh(records));
            }
        }
    }

    /** Without those that came before: a rebalance hands some over again. */
    private static int fresh(Collection<SinkRecord> records) {
        int fresh = 0;
        for (SinkRecord record : records) {
            Long next = NEXT.get(record.kafkaPartition());
            if (next == null || record.kafkaOffset() >= next) {
                NEXT.put(record.kafkaPartition(), record.kafkaOffset() + 1);
                fresh += 1;
            }
        }
        if (fresh < records.size()) {
            System.err.println(records.size() - fresh + " records came again");
        }
        return fresh;
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> settings = Job.arguments(words);
        tasks = Math.min(Integer.parseInt(settings.get("workers")), Integer.parseInt(settings.get("partitions")));
        Connect<StandaloneHerder> connect = new ConnectStandalone().startConnect(worker(settings));
        connect.start();
        int[] number = {0};
        Job.serve(next -> {
            job = next;
            NEXT.clear();
            WITH_PARTITIONS.clear();
            String name = "peer-" + ProcessHandle.current().pid() + "-" + number[0]++;
            put(connect.herder(), name, connector(settings, next));
            next.await(() -> failure(connect.herder(), name));
            delete(connect.herder(), name);
        });
    }

    private static Map<String, String> worker(Map<String, String> settings) {
        Map<String, String> of = new HashMap<>();
        of.put("bootstrap.servers", settings.get("kafka"));
        // Nobody asks it anything: any port that is free.
        of.put("listeners", "http://127.0.0.1:0");
        of.put("offset.storage.file.filename", settings.get("directory") + "/connect.offsets");
        of.put("key.converter", "org.apache.kafka.connect.storage.StringConverter");
        of.put("value.converter", "org.apache.kafka.connect.json.JsonConverter");
        of.put("plugin.discovery", "only_scan");
        return of;
    }

    private static Map<String, String> connector(Map<String, String> settings, Job job) {
        boolean upsert = job.target == Job.Target.TABLE;
        Map<String, String> of = new HashMap<>();
        of.put("connector.class", Sink.class.getName());
        of.put("tasks.max", settings.get("workers"));
        of.put("topics", job.topic);
        of.put("consumer.override.auto.offset.reset", "earliest");
        of.put("value.converter", "org.apache.kafka.connect.json.JsonConverter");
        of.put("value.converter.schemas.enable", "true");
        of.put("value.converter.schema.content", schema(upsert));
        of.put("connection.url", settings.get("jdbc"));
        of.put("connection.username", settings.get("user"));
        of.put("connection.password", "");
        // A task uses one.
        of.put("connection.pool.min_size", "1");
        of.put("connection.pool.acquire_increment", "1");
        of.put("collection.name.format", "reference");
        of.put("insert.mode", upsert ? "upsert" : "insert");
        of.put("primary.key.mode", upsert ? "record_value" : "none");
        if (upsert) {
            of.put("primary.key.fields", "app_id,subscription_id");
            of.put("use.reduction.buffer", "true");
        }
        of.put("batch.size", settings.get("batch"));
        of.put("consumer.override.max.poll.records", settings.get("batch"));
        return of;
    }

    /** The payload, with the names by which the sink knows a uuid, a timestamp and JSON. */
    private static String schema(boolean upsert) {
        String fields = field("string", "app_id", "io.debezium.data.Uuid")
                + "," + field("string", "subscription_id", "io.debezium.data.Uuid")
                + "," + field("string", "country", null)
                + "," + field("string", "device", null)
                + "," + field("int32", "sessions", null)
                + "," + field("string", "updated_at", "io.debezium.time.ZonedTimestamp")
                + "," + field("string", "tags", "io.debezium.data.Json")
                + (upsert ? "" : "," + field("int64", "sent_us", null));
        return "{\"type\":\"struct\",\"optional\":false,\"fields\":[" + fields + "]}";
    }

    private static String field(String type, String name, String semantic) {
        String named = semantic == null ? "" : ",\"name\":\"" + semantic + "\"";
        return "{\"type\":\"" + type + "\",\"field\":\"" + name + "\",\"optional\":false" + named + "}";
    }

    private static void put(StandaloneHerder herder, String name, Map<String, String> config) throws Exception {
        config.put("name", name);
        FutureCallback<Created<ConnectorInfo>> done = new FutureCallback<>();
        herder.putConnectorConfig(name, config, false, done);
        done.get(CONNECTOR_SECONDS_MAX, TimeUnit.SECONDS);
    }

    /** Why a task died, or null: Connect goes on without it. */
    private static String failure(StandaloneHerder herder, String name) {
        for (var task : herder.connectorStatus(name).tasks()) {
            if (task.trace() != null) {
                return task.trace();
            }
        }
        return null;
    }

    private static void delete(StandaloneHerder herder, String name) throws Exception {
        FutureCallback<Created<ConnectorInfo>> done = new FutureCallback<>();
        herder.deleteConnectorConfig(name, done);
        done.get(CONNECTOR_SECONDS_MAX, TimeUnit.SECONDS);
    }
}
