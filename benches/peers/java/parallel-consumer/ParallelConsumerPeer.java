import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import io.confluent.parallelconsumer.PollContext;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.Function;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Confluent Parallel Consumer with what its user has to write: JSON, and one {@code UNNEST} statement for a batch, the same that the
 * limit and forebay write. One connection for each of its threads; a statement is a transaction.
 */
public final class ParallelConsumerPeer {
    private static final String COLUMNS = "app_id, subscription_id, country, device, sessions, updated_at, tags";
    private static final String UPSERT =
            "INSERT INTO reference SELECT * FROM UNNEST(?::uuid[], ?::uuid[], ?::text[], ?::text[], ?::int[], ?::timestamptz[], "
                    + "?::jsonb[]) ON CONFLICT (app_id, subscription_id) DO UPDATE SET country = EXCLUDED.country, "
                    + "device = EXCLUDED.device, sessions = EXCLUDED.sessions, updated_at = EXCLUDED.updated_at, tags = EXCLUDED.tags";
    private static final String INSERT =
            "INSERT INTO reference (" + COLUMNS + ", sent_us) SELECT * FROM UNNEST(?::uuid[], ?::uuid[], ?::text[], ?::text[], "
                    + "?::int[], ?::timestamptz[], ?::jsonb[], ?::bigint[])";

    /** A payload of the reference job. */
    record Row(
            UUID app_id,
            UUID subscription_id,
            String country,
            String device,
            int sessions,
            String updated_at,
            JsonNode tags,
            long sent_us) {}

    private static final ObjectReader ROWS = new ObjectMapper().readerFor(Row.class);

    private final Map<String, String> settings;
    private final Job job;
    private final Queue<Connection> opened = new ConcurrentLinkedQueue<>();
    private final ThreadLocal<PreparedStatement> statement = ThreadLocal.withInitial(this::prepare);

    private ParallelConsumerPeer(Map<String, String> settings, Job job) {
        this.settings = settings;
        this.job = job;
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> settings = Job.arguments(words);
        Job.serve(job -> new ParallelConsumerPeer(settings, job).run());
    }

    private void run() throws Exception {
        var options = ParallelConsumerOptions.<String, byte[]>builder()
                .consumer(consumer())
                .ordering(ProcessingOrder.KEY)
                .maxConcurrency(Integer.parseInt(settings.get("workers")))
                .batchSize(Integer.parseInt(settings.get("batch")))
                .build();
        try (ParallelStreamProcessor<String, byte[]> processor = ParallelStreamProcessor.createEosStreamProcessor(options)) {
            processor.subscribe(List.of(job.topic));
            processor.poll(this::work);
            job.await(() -> null);
        }
        for (Connection connection : opened) {
            connection.close();
        }
    }

    private KafkaConsumer<String, byte[]> consumer() {
        Map<String, Object> of = new HashMap<>();
        of.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, settings.get("kafka"));
        of.put(ConsumerConfig.GROUP_ID_CONFIG, "peer-" + UUID.randomUUID());
        of.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        // The library commits itself and refuses a consumer that does.
        of.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        return new KafkaConsumer<>(of, new StringDeserializer(), new ByteArrayDeserializer());
    }

    private void work(PollContext<String, byte[]> context) {
        job.came();
        List<ConsumerRecord<String, byte[]>> records = context.getConsumerRecordsFlattened();
        try {
            if (job.target != Job.Target.HANDLER) {
                write(records);
            }
        } catch (Exception e) {
            // The library would try again for ever; a job that fails is a failed run.
            job.failed(e);
            throw new IllegalStateException(e);
        }
        job.wrote(records.size());
    }

    private void write(List<ConsumerRecord<String, byte[]>> records) throws Exception {
        Collection<Row> rows;
        if (job.target == Job.Target.TABLE) {
            // In the keys' order, so that no two statements wait for each other; and each key once, the last: PostgreSQL refuses
            // to update a row twice in one statement (21000). In KEY order the library never gives a key twice, but nothing that
            // it documents says so.
            Map<String, Row> last = new TreeMap<>();
            for (ConsumerRecord<String, byte[]> record : records) {
                last.put(record.key(), ROWS.readValue(record.value()));
            }
            rows = last.values();
        } else {
            rows = new ArrayList<>(records.size());
            for (ConsumerRecord<String, byte[]> record : records) {
                rows.add(ROWS.readValue(record.value()));
            }
        }
        PreparedStatement of = statement.get();
        set(of, 1, "uuid", rows, Row::app_id);
        set(of, 2, "uuid", rows, Row::subscription_id);
        set(of, 3, "text", rows, Row::country);
        set(of, 4, "text", rows, Row::device);
        set(of, 5, "int4", rows, Row::sessions);
        set(of, 6, "timestamptz", rows, Row::updated_at);
        set(of, 7, "jsonb", rows, row -> row.tags().toString());
        if (job.target == Job.Target.LOG) {
            set(of, 8, "int8", rows, Row::sent_us);
        }
        of.executeUpdate();
    }

    private static void set(PreparedStatement of, int index, String type, Collection<Row> rows, Function<Row, Object> value)
            throws SQLException {
        of.setArray(index, of.getConnection().createArrayOf(type, rows.stream().map(value).toArray()));
    }

    private PreparedStatement prepare() {
        try {
            Connection connection = DriverManager.getConnection(settings.get("jdbc"), settings.get("user"), "");
            opened.add(connection);
            return connection.prepareStatement(job.target == Job.Target.TABLE ? UPSERT : INSERT);
        } catch (SQLException e) {
            throw new IllegalStateException(e);
        }
    }
}
