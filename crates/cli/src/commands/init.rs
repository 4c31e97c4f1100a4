//! `homing init`: a short homing.toml and the outbox.

use crate::cli::Global;
use crate::config::template::{self, Chosen};
use crate::config::{DEFAULT_FILE, Database, EMBEDDED, Settings, Sources};
use crate::exit::{Ending, Failure, Outcome};
use crate::stdout;
use clap::Args;
use homing::{SqliteOutbox, StreamName};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Flags of `homing init`.
#[derive(Debug, Args)]
pub struct Flags {
    /// The stream's name, for a new file [default: orders]
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// The database for the outbox, for a new file; it may be your application's [default: sqlite:STREAM.db]
    #[arg(long, value_name = "sqlite:FILE")]
    database: Option<String>,
    /// The brokers, for a new file: host:port, or several parted by commas, or embedded [default: embedded]
    #[arg(long, value_name = "BROKERS")]
    bootstrap: Option<String>,
    /// Only prints the SQL that creates the outbox
    #[arg(long, conflicts_with = "print")]
    sql: bool,
    /// Only prints a file with every setting, its default and what goes wrong beside it
    #[arg(long)]
    print: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    config: &'a Path,
    config_written: bool,
    stream: &'a str,
    database: &'a Path,
    outbox_created: bool,
}

const NEXT: &str = "
next, in one terminal:
  homing run                                    relays, until you stop it
and in another:
  echo hello | homing send --topic greetings    puts a message into the outbox
  homing consume --topic greetings --group me   prints what arrived, until you stop it
  homing status                                 tells what is on its way";

/// Writes what is missing and keeps what is there.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let named = StreamName::parse(flags.stream.as_deref().unwrap_or("orders"))
        .map_err(|error| Failure::new(format!("--stream: {error}")))?;
    let database = flags.database.clone().unwrap_or_else(|| format!("sqlite:{named}.db"));
    let bootstrap = flags.bootstrap.as_deref().unwrap_or(EMBEDDED);
    let chosen = Chosen { stream: named.as_str(), database: &database, bootstrap };
    if flags.print {
        return stdout::print(&template::full(chosen));
    }
    let path = global.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    if flags.sql {
        let stream = if path.exists() { Settings::load(&global.sources())?.stream()? } else { named };
        return stdout::print(&SqliteOutbox::schema_sql(&stream));
    }
    let text = template::short(chosen);
    if !path.exists() {
        Settings::check_text(&path, &text)?;
    }
    let written = write_new(&path, &text)?;
    let created = create(&Sources { config: Some(path.clone()), ..global.sources() }).inspect_err(|_| {
        // Or it would be kept the next time, with what did not work. That it stays is no further harm.
        if written && let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "remove {}", path.display());
        }
    })?;
    let Created { stream, database, was_there } = created;
    let given = [&flags.stream, &flags.database, &flags.bootstrap];
    if !written && given.iter().any(|flag| flag.is_some()) {
        say!(
            "warning: --stream, --database and --bootstrap are for a new file; what {} says holds",
            path.display()
        );
    }
    if global.json {
        stdout::json(&Report {
            config: &path,
            config_written: written,
            stream: stream.as_str(),
            database: &database,
            outbox_created: !was_there,
        })?;
        return Ok(Outcome::Fine);
    }
    let verb = if written { "wrote" } else { "kept, as it was there already:" };
    say!("{verb} {}", path.display());
    let verb = if was_there { "kept" } else { "created" };
    say!("{verb} the outbox of stream {stream} in {}", database.display());
    say!("{NEXT}");
    Ok(Outcome::Fine)
}

struct Created {
    stream: StreamName,
    database: PathBuf,
    was_there: bool,
}

/// Creates the outbox that the settings name, unless it is there.
fn create(sources: &Sources) -> Result<Created, Failure> {
    let settings = Settings::load(sources)?;
    settings.check_kafka()?;
    let (stream, Database(database)) = (settings.stream()?, settings.database()?);
    let was_there = SqliteOutbox::open(&database, &stream).is_ok();
    SqliteOutbox::create(&database, &stream)
        .map_err(|error| Failure::new(format!("create the outbox in {}: {error}", database.display())))?;
    Ok(Created { stream, database, was_there })
}

/// Writes the file unless there is one; returns whether it did.
fn write_new(path: &Path, text: &str) -> Result<bool, Failure> {
    let failed = |error| Failure::new(format!("write {}: {error}", path.display()));
    match std::fs::File::create_new(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}
