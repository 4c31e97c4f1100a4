//! Prints ratios: Homing beside the raw client or the peer, in one run on one machine.

use homing_lab::bench;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["broker", dir, flush] => bench::broker::serve(dir, flush),
        [] => run(1_000_000, PARTS),
        [records, names @ ..] => records.parse().map_err(Into::into).and_then(|records| {
            let wanted = |(name, _): &&(&str, Part)| names.is_empty() || names.contains(name);
            run(records, &PARTS.iter().filter(wanted).copied().collect::<Vec<_>>())
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("homing-bench: {error}");
            ExitCode::from(2)
        }
    }
}

type Part = fn(u64) -> Result<Vec<bench::report::Line>, Box<dyn Error>>;

const PARTS: &[(&str, Part)] = &[
    ("broker", bench::broker::run),
    ("relay", bench::relay::run),
    ("consumer", bench::consumer::run),
    ("three-kafkas", bench::kafka::three),
    ("one-kafka", bench::kafka::one),
];

fn run(records: u64, parts: &[(&str, Part)]) -> Result<(), Box<dyn Error>> {
    let cores = std::thread::available_parallelism()?;
    println!("{records} records, {cores} cores");
    for (_, part) in parts {
        for line in part(records)? {
            println!("{line}");
        }
    }
    Ok(())
}
