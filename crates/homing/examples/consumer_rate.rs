//! Measures a consumer beside reading the same topic and dropping the records.
//!
//! `consumer_rate BOOTSTRAP TOPIC RECORDS MODE [IN_FLIGHT] [WORKERS]`, with MODE one of
//! drop, blocking, blocking-1ms, async, async-1ms, async-1ms-sleep, reads RECORDS records from the start
//! of TOPIC. `async-1ms` is answered by another thread after 1 ms, as by a server; `async-1ms-sleep`
//! sleeps with tokio, whose timer makes about 2 ms of it when one sleep follows another.
//! `consumer_rate BOOTSTRAP TOPIC RECORDS fill [zipf]` makes the topic with 6 partitions and writes
//! them: 100 bytes each, 10,000 keys, drawn evenly or from a Zipf distribution with exponent 1, whose
//! hottest key has 10.2 % of the records.

use homing::consumer::{Consumer, ConsumerOptions, Outcome};
use homing::kafka::partition_list::TopicPartition;
use homing::kafka::reader::{ReadFrom, TopicReader};
use homing::{KafkaConfig, Partition, Shutdown, TopicName};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

type Anything = Box<dyn Error>;

fn main() -> Result<(), Anything> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: consumer_rate BOOTSTRAP TOPIC RECORDS MODE [IN_FLIGHT|zipf] [WORKERS]";
    let [bootstrap, topic, records, mode, rest @ ..] = args.as_slice() else { return Err(usage.into()) };
    let records: u64 = records.parse()?;
    let config = KafkaConfig::new(bootstrap.as_str());
    if mode == "fill" {
        return fill(&config, topic, records, rest.first().is_some_and(|word| word == "zipf"));
    }
    let begun = Instant::now();
    let seconds = if mode == "drop" {
        read_and_drop(&config, topic, records)?
    } else {
        let in_flight = rest.first().map_or(Ok(10_000), |n| n.parse())?;
        let workers = rest.get(1).map_or(Ok(2), |n| n.parse())?;
        consume(config, topic, records, mode, in_flight, workers)?
    };
    let rate = records as f64 / seconds;
    println!(
        "{mode}: {records} records in {seconds:.3} s = {rate:.0}/s (whole run {:.3} s)",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

fn fill(config: &KafkaConfig, topic: &str, records: u64, zipf: bool) -> Result<(), Anything> {
    let admin: AdminClient<DefaultClientContext> = config.admin_config()?.create()?;
    let new = NewTopic::new(topic, 6, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(admin.create_topics([&new], &AdminOptions::new()))?;
    let mut settings = config.producer_config()?;
    settings.set("linger.ms", "20").set("queue.buffering.max.messages", "1000000");
    let producer: BaseProducer = settings.create()?;
    let payload = [b'x'; 100];
    let shares = zipf_shares(10_000);
    let mut random = 0x1234_5678_9ABC_DEF1_u64;
    for _ in 0..records {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let even = (random >> 11) as f64 / (1u64 << 53) as f64;
        let key = if zipf { shares.partition_point(|share| *share < even) as u64 } else { random % 10_000 };
        let key = format!("key-{key}");
        let mut record = BaseRecord::to(topic).key(&key).payload(&payload[..]);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            producer.poll(Duration::from_millis(5));
        }
    }
    Ok(producer.flush(Duration::from_secs(120))?)
}

/// The share of the records whose key is among the first n, for n of 1 to `keys`.
fn zipf_shares(keys: u32) -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        })
        .collect();
    sums.iter_mut().for_each(|so_far| *so_far /= sum);
    sums
}

fn read_and_drop(config: &KafkaConfig, topic: &str, records: u64) -> Result<f64, Anything> {
    let mut reader = TopicReader::open(config)?;
    let topic = TopicName::parse(topic)?;
    let mut from = Vec::new();
    for partition in 0.. {
        let at = TopicPartition { topic: topic.clone(), partition: Partition(partition) };
        if reader.watermarks(&at, Duration::from_secs(5)).is_err() {
            break;
        }
        from.push((at, ReadFrom::Start));
    }
    let begun = Instant::now();
    reader.assign(&from)?;
    let (mut seen, mut batch) = (0, Vec::new());
    while seen < records {
        seen += reader.read(&mut batch, 1024, Duration::from_millis(100))? as u64;
        batch.clear();
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Answers each question after one millisecond, from a thread of its own.
struct Server {
    questions: mpsc::Sender<(Instant, oneshot::Sender<()>)>,
}

impl Server {
    fn start() -> Self {
        let (questions, asked) = mpsc::channel::<(Instant, oneshot::Sender<()>)>();
        // Ends with the last handler that could ask.
        std::thread::spawn(move || {
            for (at, answer) in asked {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                // Whoever asked may be gone.
                let _ = answer.send(());
            }
        });
        Self { questions }
    }

    fn ask(&self) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        // Without an answer the receiver says so.
        drop(self.questions.send((Instant::now() + Duration::from_millis(1), answer)));
        answered
    }
}

fn consume(
    config: KafkaConfig,
    topic: &str,
    records: u64,
    mode: &str,
    in_flight_max: usize,
    workers: usize,
) -> Result<f64, Anything> {
    let group = format!("rate-{}", std::process::id());
    let options = ConsumerOptions { in_flight_max, workers, ..ConsumerOptions::new(&group, [topic])? };
    let consumer = Consumer::new(config, options)?;
    let (status, shutdown, begun) = (consumer.status(), Shutdown::new(), Instant::now());
    let stop = shutdown.clone();
    let watch = std::thread::spawn(move || {
        let mut first = None;
        loop {
            let counts = status.counts();
            if counts.received > 0 {
                first.get_or_insert_with(Instant::now);
            }
            if counts.finished >= records {
                stop.trigger();
                return first.map_or(0.0, |first| first.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    let summary = match mode {
        "blocking" => consumer.run_blocking(
            move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Outcome::Ok
            },
            &shutdown,
        )?,
        "blocking-1ms" => consumer.run_blocking(
            |_| {
                std::thread::sleep(Duration::from_millis(1));
                Outcome::Ok
            },
            &shutdown,
        )?,
        "async" => consumer.run_async(|_| async { Outcome::Ok }, &shutdown)?,
        "async-1ms" => {
            let server = Server::start();
            consumer.run_async(
                move |_| {
                    let answer = server.ask();
                    // Dropped only when the run is over.
                    async move { answer.await.map_or_else(|_| Outcome::retry("no answer"), |()| Outcome::Ok) }
                },
                &shutdown,
            )?
        }
        "async-1ms-sleep" => consumer.run_async(
            |_| async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Outcome::Ok
            },
            &shutdown,
        )?,
        other => return Err(format!("unknown mode {other}").into()),
    };
    let seconds = watch.join().map_err(|_| "the watch panicked")?;
    eprintln!("{:?}; begun {:.3} s before", summary.counts, begun.elapsed().as_secs_f64() - seconds);
    Ok(seconds)
}
