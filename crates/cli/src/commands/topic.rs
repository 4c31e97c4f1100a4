//! `homing topic`: what a topic's epoch holds, and closing, reopening or discarding it by order.

use crate::cli::Global;
use crate::config::Settings;
use crate::exit::{Ending, Failure, Outcome};
use crate::stdout;
use clap::{Args, Subcommand};
use homing::outbox::store::{TopicAction, TopicOutlook};
use homing::{SqliteOutbox, TopicName};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Pause between two looks at an order.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Flags of `homing topic`.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what of a topic is numbered, settled, read back and held
    Show(Topic),
    /// Ends the topic's epoch; what is not settled goes to the dead letters
    Close(Ordered),
    /// Ends the topic's epoch; what is not settled gets new numbers and goes out in a new one
    Reopen {
        #[command(flatten)]
        ordered: Ordered,
        /// Also what is settled and still kept: the topic was emptied or made anew
        #[arg(long)]
        kept: bool,
    },
    /// Sets the topic's held rows aside (it is not there and will not be)
    Discard(Ordered),
}

#[derive(Debug, Args)]
struct Topic {
    /// The topic
    #[arg(value_name = "TOPIC", value_parser = parse)]
    topic: TopicName,
}

#[derive(Debug, Args)]
struct Ordered {
    #[command(flatten)]
    topic: Topic,
    /// Does it; without this flag it only shows what would be lost
    #[arg(long)]
    yes: bool,
    /// Who orders it, for the record
    #[arg(long, value_name = "WHO", default_value = "homing topic")]
    by: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "no reason was given")]
    why: String,
    /// How long to wait for the relay to carry it out; 0: only order it
    #[arg(long, value_name = "S", default_value_t = 30)]
    wait_s: u64,
}

fn parse(name: &str) -> Result<TopicName, String> {
    TopicName::parse(name).map_err(|error| error.to_string())
}

/// Shows, or orders and waits.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let outbox = Settings::load(&global.sources())?.outbox()?;
    let (ordered, action) = match &flags.command {
        Command::Show(Topic { topic }) => {
            show(&outbox.topic_outlook(topic)?, global.json)?;
            return Ok(Outcome::Fine);
        }
        Command::Close(ordered) => (ordered, TopicAction::Close),
        Command::Reopen { ordered, kept: false } => (ordered, TopicAction::Reopen),
        Command::Reopen { ordered, kept: true } => (ordered, TopicAction::ReopenKept),
        Command::Discard(ordered) => (ordered, TopicAction::Discard),
    };
    let outlook = outbox.topic_outlook(&ordered.topic.topic)?;
    if outlook.lanes.is_empty() && outlook.held + outlook.unclaimed == 0 {
        let topic = &outlook.topic;
        return Err(Failure::new(format!("this outbox has nothing to do with a topic {topic}"))
            .help("is the topic's name right?"));
    }
    if !ordered.yes {
        show(&outlook, global.json)?;
        say!("{}", means(&outlook, action));
        say!("nothing was done: say --yes to do it");
        return Ok(Outcome::Findings);
    }
    let id = outbox.order_topic(&ordered.topic.topic, action, &ordered.by, &ordered.why)?;
    let result = carried_out(&outbox, id, Duration::from_secs(ordered.wait_s))?;
    if global.json {
        let topic = ordered.topic.topic.as_str();
        stdout::json(&json!({"topic": topic, "order": id, "action": action.as_str(), "result": result}))?;
    }
    match result {
        Some(result) => say!("done: {result}"),
        None => say!("order {id} is written; the relay carries it out when it runs"),
    }
    Ok(Outcome::Fine)
}

/// What came of an order; `None` when nothing has within `wait`.
fn carried_out(outbox: &SqliteOutbox, id: i64, wait: Duration) -> Result<Option<String>, Failure> {
    let until = Instant::now() + wait;
    loop {
        let orders = outbox.topic_orders()?;
        let order = orders.into_iter().find(|order| order.id == id);
        if let Some(order) = order.filter(|order| order.done_at_ms.is_some()) {
            return Ok(Some(order.result.unwrap_or_default()));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

struct Sums {
    unsettled: u64,
    unverified_kept: u64,
    unverified_pruned: u64,
    settled_kept: u64,
}

fn sums(outlook: &TopicOutlook) -> Sums {
    let sum = |of: fn(&homing::outbox::store::LaneOutlook) -> u64| outlook.lanes.iter().map(of).sum();
    Sums {
        unsettled: sum(|lane| lane.unsettled),
        unverified_kept: sum(|lane| lane.unverified_kept),
        unverified_pruned: sum(|lane| lane.unverified_pruned),
        settled_kept: sum(|lane| lane.settled_kept),
    }
}

/// What an order would mean, in words.
fn means(outlook: &TopicOutlook, action: TopicAction) -> String {
    let Sums { unsettled, unverified_kept, settled_kept, .. } = sums(outlook);
    let topic = &outlook.topic;
    match action {
        TopicAction::Close => format!(
            "closing {topic} would set {unsettled} rows aside that are not settled, and let {unverified_kept} \
             settled ones go that were not read back"
        ),
        TopicAction::Reopen => format!(
            "reopening {topic} would send {unsettled} rows under new numbers (some may be in Kafka already; \
             their ids tell), and let {unverified_kept} settled ones go that were not read back"
        ),
        TopicAction::ReopenKept => format!(
            "reopening {topic} would send {} rows under new numbers: all that are not settled, and all that \
             are settled and still kept (their ids tell consumers which they had)",
            unsettled + settled_kept
        ),
        TopicAction::Discard => format!("discarding would set {} held rows of {topic} aside", outlook.held),
    }
}

fn show(outlook: &TopicOutlook, json: bool) -> Result<(), Failure> {
    let Sums { unsettled, unverified_kept, unverified_pruned, settled_kept } = sums(outlook);
    if json {
        let lanes: Vec<Value> = outlook
            .lanes
            .iter()
            .map(|lane| {
                json!({
                    "epoch": lane.lane.epoch.0,
                    "partition": lane.lane.partition.0,
                    "unsettled": lane.unsettled,
                    "unverified_kept": lane.unverified_kept,
                    "unverified_pruned": lane.unverified_pruned,
                    "settled_kept": lane.settled_kept,
                })
            })
            .collect();
        return stdout::json(&json!({
            "topic": outlook.topic.as_str(),
            "unsettled": unsettled,
            "unverified_kept": unverified_kept,
            "unverified_pruned": unverified_pruned,
            "settled_kept": settled_kept,
            "held": outlook.held,
            "unclaimed": outlook.unclaimed,
            "lanes": lanes,
        }));
    }
    stdout::text(&format!(
        "topic {}\n  {unsettled} rows numbered and not settled\n  {settled_kept} settled and still kept, \
         {unverified_kept} of them not read back\n  {unverified_pruned} settled, not read back and pruned\n  \
         {} held, without a number\n  {} new\n",
        outlook.topic, outlook.held, outlook.unclaimed
    ))
}
