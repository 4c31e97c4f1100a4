//! One worker process of a kill test: a relay or a consumer that may kill itself at a named step.

use homing::Shutdown;
use homing::consumer::{Consumer, ConsumerOptions, Outcome, Record};
use homing::inbox::{Applied, Inbox};
use homing::outbox::SqliteOutbox;
use homing::relay::{Relay, RelayOptions};
use homing::testing::Steps;
use homing_core::StreamName;
use homing_lab::job::{Job, Role};
use homing_lab::scene::STREAM;
use homing_lab::{effects, process, unsafe_arms, workload};
use std::cell::RefCell;
use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [job] = args.as_slice() else { return fail(&"usage: lab-worker JOB (as JSON)") };
    let outcome = serde_json::from_str(job).map_err(Into::into).and_then(|job| run(&job));
    outcome.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

fn run(job: &Job) -> Result<(), Box<dyn Error>> {
    if let Some(log) = &job.log {
        let log = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let filter = EnvFilter::new("info,homing=debug");
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(Mutex::new(log))
            .init();
    }
    let steps = job.kill.as_deref().map(killer).transpose()?.unwrap_or_default();
    let (bootstrap, topic, database) = (&job.site.bootstrap, &job.topic, job.database.as_path());
    match job.role {
        Role::Relay => relay(job, steps),
        Role::Consumer => consumer(job, Apply::Once, steps),
        Role::ConsumerWithoutInbox => consumer(job, Apply::EachTime, steps),
        Role::UnsafeRelay => {
            println!("ready");
            unsafe_arms::relay_that_marks_on_enqueue(bootstrap, topic, database, &steps)
        }
        Role::UnsafeConsumer => {
            drop(effects::open(database)?);
            println!("ready");
            let stall = (job.stall_after, &steps);
            unsafe_arms::consumer_that_auto_commits(bootstrap, topic, &job.group, database, stall)
        }
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lab-worker: {error}");
    ExitCode::from(2)
}

/// `STEP:NTH`: kills this process when the step is reached for the nth time.
fn killer(text: &str) -> Result<Steps, String> {
    let (name, nth) = text.split_once(':').ok_or("kill is not STEP:NTH")?;
    let (name, nth) = (name.to_owned(), nth.parse::<u64>().map_err(|error| format!("{text}: {error}"))?);
    let reached = AtomicU64::new(0);
    Ok(Steps::observed_by(move |step| {
        if step == name && reached.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            process::kill_myself();
        }
    }))
}

fn relay(job: &Job, steps: Steps) -> Result<(), Box<dyn Error>> {
    let outbox = SqliteOutbox::open(&job.database, &StreamName::parse(STREAM)?)?;
    let options = RelayOptions { steps, batch_rows: 20, ..RelayOptions::default() };
    println!("ready");
    Relay::new(outbox, job.site.kafka(), options)?.run(&Shutdown::new())?;
    Ok(())
}

/// Whether an order that comes again is recognised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apply {
    Once,
    EachTime,
}

fn consumer(job: &Job, how: Apply, steps: Steps) -> Result<(), Box<dyn Error>> {
    let options = ConsumerOptions {
        workers: 4,
        instance_id: Some("lab-consumer".to_owned()),
        steps,
        ..ConsumerOptions::new(&job.group, [job.topic.as_str()])?
    };
    drop(effects::open(&job.database)?);
    let path = job.database.clone();
    let mut kafka = job.site.kafka();
    if job.log.is_some() {
        kafka.client.insert("debug".into(), "cgrp,topic,fetch,metadata".into());
    }
    println!("ready");
    let consumer = Consumer::new(kafka, options)?;
    if job.log.is_some() {
        let status = consumer.status();
        // Ends with the process.
        std::thread::spawn(move || {
            loop {
                let counts = serde_json::to_string(&status.counts()).unwrap_or_default();
                tracing::info!(counts, "status");
                std::thread::sleep(Duration::from_secs(1));
            }
        });
    }
    consumer.run_blocking(move |record| handle(&path, how, record), &Shutdown::new())?;
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
