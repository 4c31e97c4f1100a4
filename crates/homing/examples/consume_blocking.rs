//! Works through a topic with blocking handlers: print each record, retry what fails, set aside
//! what never works.
//!
//! `consume_blocking BOOTSTRAP TOPIC GROUP [DEAD_LETTER_TOPIC]`; ends on end of input (Ctrl-D).

use homing::consumer::{Consumer, ConsumerOptions, Outcome, Record};
use homing::{KafkaConfig, Shutdown, TopicName};
use std::error::Error;
use std::io::Read;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, group, rest @ ..] = args.as_slice() else {
        return Err("usage: consume_blocking BOOTSTRAP TOPIC GROUP [DEAD_LETTER_TOPIC]".into());
    };
    let mut options = ConsumerOptions::new(group, [topic.as_str()])?;
    options.dead_letter = rest.first().map(|topic| TopicName::parse(topic)).transpose()?;

    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    std::thread::spawn(move || {
        // The end of the input, or an error in reading it, ends the consumer.
        let _end = std::io::stdin().read_to_end(&mut Vec::new());
        stop.trigger();
    });

    let consumer = Consumer::new(KafkaConfig::new(bootstrap.as_str()), options)?;
    let summary = consumer.run_blocking(handle, &shutdown)?;
    eprintln!("{} finished, {} dead-lettered", summary.counts.finished, summary.counts.dead_lettered);
    Ok(())
}

/// What an application does with a record: an effect, or a reason why there was none.
fn handle(record: &Record) -> Outcome {
    let Some(payload) = record.payload() else { return Outcome::Ok };
    match std::str::from_utf8(payload) {
        Ok(text) => {
            println!("{} {} {}: {text}", record.topic(), record.partition(), record.offset());
            Outcome::Ok
        }
        // It will not become text by being tried again.
        Err(error) => Outcome::reject(error.to_string()),
    }
}
