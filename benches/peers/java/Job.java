import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;

/**
 * One job of a peer: so many records of a topic. It knows when the first came and when the last was written, and what that took of
 * the process; how they are written is the peer's matter.
 *
 * <p>The benchmark writes one line for a job to the process's stdin, "TARGET TOPIC RECORDS", and reads one line with the figures from
 * its stdout. The first job is the warm-up, the second is what is measured: same process, same code.
 */
final class Job {
    /** What the records become; the words are those of the benchmark's {@code Target}. */
    enum Target {
        /** Upserts. */
        TABLE,
        /** Inserts, with the time at which the record was to be sent. */
        LOG,
        /** Nothing. */
        HANDLER
    }

    interface Peer {
        /** Does the job, and has closed its connections when it returns. */
        void run(Job job) throws Exception;
    }

    /** A job has failed where nothing was written for this long. */
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    final Target target;
    final String topic;
    private final long records;

    private boolean begun;
    private long written;
    private long batches;
    private long beganNanos;
    private double beganCpu;
    private double seconds;
    private double cpuSeconds;
    private final CompletableFuture<Void> ended = new CompletableFuture<>();

    private Job(String line) {
        String[] words = line.trim().split(" ");
        target = Target.valueOf(words[0].toUpperCase());
        topic = words[1];
        records = Long.parseLong(words[2]);
    }

    /** The arguments, "NAME=VALUE" each, and then jobs until stdin ends. */
    static void serve(Peer peer) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Job job = new Job(line);
            try {
                peer.run(job);
            } catch (Throwable failed) {
                failed.printStackTrace();
                System.exit(1);
            }
            System.out.println(job.figures());
        }
        // Threads that a library has left must not keep the process.
        System.exit(0);
    }

    static Map<String, String> arguments(String[] words) {
        Map<String, String> of = new HashMap<>();
        for (String word : words) {
            int equals = word.indexOf('=');
            of.put(word.substring(0, equals), word.substring(equals + 1));
        }
        return of;
    }

    /** Records have come. */
    synchronized void came() {
        if (!begun) {
            begun = true;
            beganNanos = System.nanoTime();
            beganCpu = cpuSeconds();
        }
    }

    /** They are durable, in one transaction. */
    synchronized void wrote(int more) {
        written += more;
        batches += 1;
        if (written >= records && !ended.isDone()) {
            seconds = (System.nanoTime() - beganNanos) / 1e9;
            cpuSeconds = cpuSeconds() - beganCpu;
            ended.complete(null);
        }
    }

    void failed(Throwable cause) {
        ended.completeExceptionally(cause);
    }

    /** Waits until all records were written, and asks now and then whether that can still be. */
    void await(Supplier<String> failure) throws Exception {
        long before = -1;
        for (long since = System.nanoTime(); ; ) {
            try {
                ended.get(1, TimeUnit.SECONDS);
                return;
            } catch (TimeoutException notYet) {
                String reason = failure.get();
                if (reason != null) {
                    throw new IllegalStateException(reason);
                }
            }
            synchronized (this) {
                if (written > before) {
                    before = written;
                    since = System.nanoTime();
                } else if (System.nanoTime() - since > PATIENCE.toNanos()) {
                    throw new IllegalStateException(written + " of " + records + " records of " + topic + " were written, then none");
                }
            }
        }
    }

    /** Records a second, CPU µs a record, the process's peak in MB, records, transactions. */
    private synchronized String figures() throws IOException {
        return written / seconds + " " + cpuSeconds * 1e6 / written + " " + peakMb() + " " + written + " " + batches;
    }

    /** User and system time of the process, JIT and garbage collection included, in steps of 10 ms: proc(5), "stat". */
    private static double cpuSeconds() {
        try {
            String stat = Files.readString(Path.of("/proc/self/stat"));
            String[] behindName = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
            return (Long.parseLong(behindName[14 - 3]) + Long.parseLong(behindName[15 - 3])) / 100.0;
        } catch (IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    private static double peakMb() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return Long.parseLong(line.replaceAll("[^0-9]", "")) / 1024.0;
            }
        }
        throw new IOException("/proc/self/status has no VmHWM");
    }
}
