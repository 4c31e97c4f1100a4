//! The `homing` command.

#[macro_use]
mod talk;
mod background_writer;
mod cli;
mod commands;
mod config;
mod descriptors;
mod disk;
mod endpoint;
mod exit;
mod input;
mod logging;
mod process_group;
mod progress;
mod record_json;
mod signals;
mod stdout;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Cli { command, global } = Cli::parse();
    if matches!(command, Command::Run(_) | Command::Broker(_)) {
        homing_broker::keep_heap_small();
    }
    logging::start(global.verbose, matches!(command, Command::Run(_) | Command::Broker(_)));
    descriptors::raise_limit();
    let ending = match command {
        Command::Demo(flags) => commands::demo::run(&flags, &global),
        Command::Init(flags) => commands::init::run(&flags, &global),
        Command::Send(flags) => commands::send::run(&flags, &global),
        Command::Run(flags) => commands::run::run(&flags, &global),
        Command::Consume(flags) => commands::consume::run(&flags, &global),
        Command::Status(flags) => commands::status::run(&flags, &global),
        Command::Audit(flags) => commands::audit::run(&flags, &global),
        Command::Dlq(flags) => commands::dlq::run(&flags, &global),
        Command::Topic(flags) => commands::topic::run(&flags, &global),
        Command::Broker(flags) => commands::broker::run(&flags, &global),
        Command::DemoChild(flags) => commands::demo::run_child(&flags),
    };
    let code = match ending {
        Ok(outcome) => outcome.code(),
        Err(failure) => {
            talk::say(failure);
            2
        }
    };
    talk::flush();
    code.into()
}
