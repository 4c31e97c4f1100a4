//! One worker process of a kill test: a relay or a consumer that may kill itself at a named step.

use homing::consumer::{Consumer, ConsumerOptions, Outcome, Record};
use homing::inbox::{Applied, Inbox};
use homing::outbox::SqliteOutbox;
use homing::relay::{Relay, RelayOptions};
use homing::testing::Steps;
use homing::{KafkaConfig, Shutdown};
use homing_core::StreamName;
use homing_lab::{effects, process, unsafe_arms, workload};
use std::cell::RefCell;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

const USAGE: &str = "usage: lab-worker relay|consumer|consumer-without-inbox|unsafe-relay|unsafe-consumer BOOTSTRAP DATABASE [STEP:NTH]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (role, bootstrap, database, kill) = match args.as_slice() {
        [role, bootstrap, database] => (role, bootstrap, database, None),
        [role, bootstrap, database, kill] => (role, bootstrap, database, Some(kill.as_str())),
        _ => return fail(&USAGE),
    };
    let steps = match kill.map(killer).transpose() {
        Ok(steps) => steps.unwrap_or_default(),
        Err(error) => return fail(&error),
    };
    let kafka = KafkaConfig { bootstrap: bootstrap.clone(), create_topics: true, ..KafkaConfig::default() };
    let outcome = match role.as_str() {
        "relay" => relay(kafka, Path::new(database), steps),
        "consumer" => consumer(kafka, Path::new(database), Apply::Once, steps),
        "consumer-without-inbox" => consumer(kafka, Path::new(database), Apply::EachTime, steps),
        "unsafe-relay" => {
            println!("ready");
            unsafe_arms::relay_that_marks_on_enqueue(bootstrap, Path::new(database))
        }
        "unsafe-consumer" => {
            println!("ready");
            unsafe_arms::consumer_that_auto_commits(bootstrap, Path::new(database))
        }
        _ => Err(USAGE.into()),
    };
    outcome.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lab-worker: {error}");
    ExitCode::from(2)
}

/// `STEP:NTH`: kills this process when the step is reached for the nth time.
fn killer(text: &str) -> Result<Steps, String> {
    let (name, nth) = text.split_once(':').ok_or(USAGE)?;
    let (name, nth) = (name.to_owned(), nth.parse::<u64>().map_err(|error| format!("{text}: {error}"))?);
    let reached = AtomicU64::new(0);
    Ok(Steps::observed_by(move |step| {
        if step == name && reached.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            process::kill_myself();
        }
    }))
}

fn relay(kafka: KafkaConfig, database: &Path, steps: Steps) -> Result<(), Box<dyn Error>> {
    let outbox = SqliteOutbox::open(database, &StreamName::parse("lab")?)?;
    let options = RelayOptions { steps, batch_rows: 20, ..RelayOptions::default() };
    println!("ready");
    Relay::new(outbox, kafka, options)?.run(&Shutdown::new())?;
    Ok(())
}

/// Whether an order that comes again is recognised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apply {
    Once,
    EachTime,
}

fn consumer(kafka: KafkaConfig, database: &Path, how: Apply, steps: Steps) -> Result<(), Box<dyn Error>> {
    let options = ConsumerOptions {
        workers: 4,
        instance_id: Some("lab-consumer".to_owned()),
        steps,
        ..ConsumerOptions::new("lab", [workload::TOPIC])?
    };
    drop(effects::open(database)?);
    let path = database.to_owned();
    println!("ready");
    Consumer::new(kafka, options)?
        .run_blocking(move |record| handle(&path, how, record), &Shutdown::new())?;
    Ok(())
}

thread_local! {
    static CONNECTION: RefCell<Option<rusqlite::Connection>> = const { RefCell::new(None) };
}

/// Applies one order through the inbox: the effect and the inbox's row in one transaction.
fn handle(path: &Path, how: Apply, record: &Record) -> Outcome {
    let applied = CONNECTION.with_borrow_mut(|connection| apply(path, how, connection, record));
    applied.map_or_else(|error| Outcome::Retry { after: None, reason: error.to_string() }, |()| Outcome::Ok)
}

fn apply(
    path: &Path,
    how: Apply,
    connection: &mut Option<rusqlite::Connection>,
    record: &Record,
) -> Result<(), Box<dyn Error>> {
    if connection.is_none() {
        let opened = effects::open(path)?;
        Inbox::create(&opened)?;
        *connection = Some(opened);
    }
    let connection = connection.as_mut().expect("opened above");
    let (key, payload) = (record.key().unwrap_or_default(), record.payload().unwrap_or_default());
    let order_no = workload::order_no(payload).ok_or("the payload names no order")?;
    let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    if how == Apply::EachTime || Inbox::apply_once(&tx, "lab", record)? == Applied::First {
        effects::apply(&tx, order_no, key, payload)?;
    }
    Ok(tx.commit()?)
}
