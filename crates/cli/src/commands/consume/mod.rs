//! `homing consume`: records as JSON lines, or a command per record; committed after success.

mod ending;
mod exec;
mod print;
mod stop;

use crate::cli::Global;
use crate::config::{Place, Settings};
use crate::endpoint::Endpoint;
use crate::exit::{Ending, Failure, Outcome};
use crate::{signals, stdout};
use clap::{Args, ValueEnum};
use ending::{Commands, Ending as EndingCommands};
use exec::Exec;
use homing::consumer::ConsumerOptions;
use homing::core::ProcessingOrder;
use homing::kafka::ensure::{Presence, ensure_topics};
use homing::{Consumer, ConsumerError, ConsumerSummary, Shutdown, TopicName};
use print::Printer;
use std::sync::Arc;
use std::time::Duration;
use stop::{Quota, StopWhenIdle};

/// How long a first question to Kafka waits.
const ASK: Duration = Duration::from_secs(10);
/// Records printed with one flush, at most.
const PRINT_BATCH: usize = 1000;

/// Flags of `homing consume`.
#[derive(Debug, Args)]
pub struct Flags {
    /// The topic to work through; may be given several times
    #[arg(long, required = true)]
    topic: Vec<String>,
    /// The consumer group: where it left off is where it goes on
    #[arg(long)]
    group: String,
    /// Runs this with `sh -c` for each record instead of printing it: the record as JSON on standard
    /// input, HOMING_TOPIC, _PARTITION, _OFFSET, _KEY, _SEQ and _ID set. Exit code 0 is success;
    /// anything else is tried again after a pause, then set aside; 126 and 127 (no such command) stop
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Commands at once [default: 16]
    #[arg(long, value_name = "N", requires = "exec")]
    workers: Option<String>,
    /// Which records wait for one another [default: key; partition when printing]
    #[arg(long, value_enum)]
    order: Option<Order>,
    /// Where a group that has never committed begins [default: earliest]
    #[arg(long, value_enum)]
    from: Option<From>,
    /// Ends after so many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_messages: Option<u64>,
    /// Ends once no record has come for so long
    #[arg(long, value_name = "SECS")]
    until_idle: Option<f64>,
    /// How often a record is tried in all [default: 10]
    #[arg(long, value_name = "N", requires = "exec")]
    attempts: Option<String>,
    /// The topic for records that were given up [default: GROUP.dlq]; none: stop instead
    #[arg(long, value_name = "TOPIC")]
    dead_letter: Option<String>,
    /// A name for this member that outlives its process: a restart then needs no rebalance
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// Records of one key
    Key,
    /// Records of one partition
    Partition,
    /// None
    Unordered,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    /// At the oldest record
    Earliest,
    /// Behind the newest record
    Latest,
    /// Not at all
    Error,
}

/// Consumes until told to stop, or until a limit is reached.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let settings = with_flags(flags, global)?;
    let mut options = settings.consumer(&flags.group, &flags.topic)?;
    let is_order_given = settings.place("consumer.order").is_some();
    if flags.exec.is_none() {
        options.workers = 1;
        if !is_order_given {
            options.order = ProcessingOrder::Partition;
        }
    }
    let shutdown = signals::shutdown_on_signals()?;
    let endpoint = Endpoint::open(&settings)?;
    let absent = look_for_topics(&endpoint, &options)?;
    let (dead_letter, drain_timeout) = (options.dead_letter.clone(), options.drain_timeout);
    let consumer = Consumer::new(endpoint.kafka.clone(), options)?;
    let status = consumer.status();
    let idle = flags
        .until_idle
        .map(|seconds| {
            let quiet = Duration::try_from_secs_f64(seconds)
                .map_err(|_| Failure::new(format!("--until-idle {seconds}: must be a number of seconds")))?;
            StopWhenIdle::start(Arc::clone(&status), quiet, &shutdown)
        })
        .transpose()?;
    let quota = Quota::new(flags.max_messages, &shutdown);
    let commands = Commands::default();
    let mut still_running = 0;
    let ended = match &flags.exec {
        None => {
            let printer = Printer::new(quota);
            let pipe = printer.closed();
            match consumer.run_batches(PRINT_BATCH, move |records| printer.print(records), &shutdown) {
                Err(ConsumerError::Fatal { .. }) if pipe.is_triggered() => {
                    say!("standard output was closed; what was not printed is not committed");
                    return Ok(Outcome::Fine);
                }
                ended => ended,
            }
        }
        Some(command) => {
            let exec = Exec::new(command.clone(), quota, commands.clone());
            let ending = EndingCommands::start(&commands, &shutdown, drain_timeout)?;
            let ended =
                consumer.run_blocking_with(move |record, context| exec.run(record, context), &shutdown);
            still_running = ending.finish();
            ended
        }
    };
    // However it ended: what watches it for idleness must not go on to judge it.
    shutdown.trigger();
    if let Some(idle) = idle {
        idle.join();
    }
    tell_of_commands(commands.ended(), still_running);
    let summary = ended.map_err(|error| explain(&error))?;
    if global.json && flags.exec.is_some() {
        stdout::json(&summary)?;
    }
    tell(&summary, dead_letter.as_ref());
    if flags.until_idle.is_some() && summary.counts.received == 0 && !absent.is_empty() {
        let absent: Vec<_> = absent.iter().map(TopicName::as_str).collect();
        return Err(Failure::new(format!("{} did not exist, so nothing could be read", absent.join(", ")))
            .help("is the topic's name right?"));
    }
    // Last: the consumer committed through it.
    drop(endpoint);
    let unfinished = commands.ended() > 0 || still_running > 0 || summary.abandoned > 0;
    Ok(Outcome::of_findings(unfinished || summary.counts.dead_lettered > 0))
}

fn with_flags(flags: &Flags, global: &Global) -> Result<Settings, Failure> {
    let mut settings = Settings::load(&global.sources())?;
    let order = flags.order.map(|order| match order {
        Order::Key => "key",
        Order::Partition => "partition",
        Order::Unordered => "unordered",
    });
    let start = flags.from.map(|from| match from {
        From::Earliest => "earliest",
        From::Latest => "latest",
        From::Error => "error",
    });
    let given = [
        ("consumer.workers", "--workers", flags.workers.as_deref()),
        ("consumer.order", "--order", order),
        ("consumer.start", "--from", start),
        ("consumer.retry_attempts_max", "--attempts", flags.attempts.as_deref()),
        ("consumer.dead_letter", "--dead-letter", flags.dead_letter.as_deref()),
        ("consumer.instance_id", "--instance-id", flags.instance_id.as_deref()),
    ];
    for (key, flag, value) in given {
        if let Some(value) = value {
            settings.set(key, value, Place::Flag(flag))?;
        }
    }
    Ok(settings)
}

/// Creates what is missing where that is allowed, and says so: it may be a typo. Returns what was not there.
fn look_for_topics(endpoint: &Endpoint, options: &ConsumerOptions) -> Result<Vec<TopicName>, Failure> {
    let mut absent = Vec::new();
    let topics: Vec<TopicName> = options.topics.iter().chain(&options.dead_letter).cloned().collect();
    let found = ensure_topics(&endpoint.kafka, &topics, ASK).map_err(|error| {
        Failure::new(format!("ask {} for the topics: {error}", endpoint.kafka.bootstrap))
            .help("is kafka.bootstrap right, and the broker up?")
    })?;
    for (topic, presence) in topics.iter().zip(found) {
        let is_letters = options.dead_letter.as_ref() == Some(topic);
        match presence {
            Presence::Present => {}
            Presence::Created if is_letters => tracing::info!(%topic, "created"),
            Presence::Created => {
                say!("topic {topic} was not there and was created, empty; if the name is a typo, stop this");
                absent.push(topic.clone());
            }
            Presence::Missing if is_letters => tracing::warn!(
                "the dead-letter topic {topic} does not exist; create it, or the first record given up blocks"
            ),
            Presence::Missing => {
                say!("topic {topic} does not exist; waiting for it");
                absent.push(topic.clone());
            }
            Presence::NotAuthorised => {
                return Err(Failure::new(format!("not allowed to see topic {topic}"))
                    .help("give this user Describe and Read on the topic, and Read on the group"));
            }
        }
    }
    Ok(absent)
}

fn explain(error: &ConsumerError) -> Failure {
    let failure = Failure::new(format!("consume: {error}"));
    match error {
        ConsumerError::NowhereToSetAside { .. } => {
            failure.help("mend the command, or name a --dead-letter TOPIC")
        }
        ConsumerError::NoCommittedOffset { .. } => failure.help("begin with --from earliest or latest"),
        _ => failure,
    }
}

fn tell_of_commands(ended: u64, still_running: usize) {
    if ended > 0 {
        say!(
            "{ended} commands had not finished in time and were ended (SIGTERM, then SIGKILL); their records \
             are not committed and will come again"
        );
    }
    if still_running > 0 {
        say!("{still_running} of them have been killed and are not gone yet");
    }
}

fn tell(summary: &ConsumerSummary, dead_letter: Option<&TopicName>) {
    let counts = &summary.counts;
    tracing::info!(finished = counts.finished, retried = counts.retried, "stopped");
    if let Some(topic) = dead_letter.filter(|_| counts.dead_lettered > 0) {
        let last = counts.last_error.as_deref().map(|error| format!("; last: {error}")).unwrap_or_default();
        say!("{} records were given up and are in topic {topic}{last}", counts.dead_lettered);
    }
    if summary.abandoned > 0 {
        say!("{} records were still worked on at the deadline; they will come again", summary.abandoned);
    }
}

/// A signal of its own, so that a closed pipe can be told from other ends.
type Closed = Shutdown;
