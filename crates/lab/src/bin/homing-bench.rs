//! Prints ratios: Homing beside the raw client or the peer, in one run on one machine.

use homing_lab::bench;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["broker", dir, flush] => bench::broker::serve(dir, flush),
        [] => run(1_000_000),
        [records] => records.parse().map_err(Into::into).and_then(run),
        _ => Err("usage: homing-bench [RECORDS]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("homing-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(records: u64) -> Result<(), Box<dyn Error>> {
    let cores = std::thread::available_parallelism()?;
    println!("{records} records, {cores} cores");
    for part in [bench::broker::run, bench::relay::run, bench::consumer::run] {
        for line in part(records)? {
            println!("{line}");
        }
    }
    Ok(())
}
