//! Apache Kafka's jars: from `KAFKA_HOME`, from the cache, or once from Maven Central.
//!
//! The cache is a directory per version, `~/.cache/homing/kafka-VERSION`. It is
//! filled beside and renamed, under a lock, so that it is whole or absent and
//! two test processes fetch once. Nothing is asked of the network, and Maven is
//! not started, when it is there.

use super::ClusterError;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version tested when `HOMING_KAFKA_VERSION` does not say another.
pub const DEFAULT_VERSION: &str = "4.3.1";

/// Binds SLF4J, without which a broker's log is empty.
const LOG4J_VERSION: &str = "2.24.3";
const MAVEN_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies";

const INSTALL_JAVA: &str = "apt-get install openjdk-17-jdk-headless";
const INSTALL_MAVEN: &str = "apt-get install maven";

/// A Java program and Kafka's jars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    java: PathBuf,
    jars: PathBuf,
    version: String,
}

impl Kafka {
    /// The version's jars, fetched if they are neither cached nor given by `KAFKA_HOME`.
    ///
    /// # Errors
    /// When Java is missing; when the jars must be fetched and Maven is missing
    /// or does not succeed.
    pub fn find(version: &str) -> Result<Self, ClusterError> {
        let java = find_java()?;
        if let Some(home) = env::var_os("KAFKA_HOME").filter(|home| !home.is_empty()) {
            let jars = Path::new(&home).join("libs");
            let version = version_in(&jars)?;
            return Ok(Self { java, jars, version });
        }
        let jars = cache_dir()?.join(format!("kafka-{version}"));
        if !jars.is_dir() {
            fetch(version, &jars)?;
        }
        Ok(Self { java, jars, version: version.to_owned() })
    }

    /// The folder of jars.
    #[must_use]
    pub fn jars(&self) -> &Path {
        &self.jars
    }

    /// Kafka's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command that runs one of Kafka's own tools, e.g. `org.apache.kafka.tools.TopicCommand`.
    #[must_use]
    pub fn tool(&self, class: &str) -> Command {
        let mut command = self.java();
        command.args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlog4j2.level=WARN"]);
        command.arg("-cp").arg(self.classpath()).arg(class).stdin(Stdio::null());
        command
    }

    pub(super) fn java(&self) -> Command {
        Command::new(&self.java)
    }

    pub(super) fn classpath(&self) -> PathBuf {
        self.jars.join("*")
    }
}

/// The version to test: `HOMING_KAFKA_VERSION`, or the default.
#[must_use]
pub fn version() -> String {
    env::var("HOMING_KAFKA_VERSION")
        .ok()
        .filter(|version| !version.is_empty())
        .unwrap_or_else(|| DEFAULT_VERSION.to_owned())
}

fn find_java() -> Result<PathBuf, ClusterError> {
    let of_home = env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    of_home
        .filter(|java| java.is_file())
        .or_else(|| on_path("java", env::var_os("PATH").as_deref()))
        .ok_or_else(|| missing("java (17 or later)", INSTALL_JAVA))
}

fn missing(program: &str, install: &str) -> ClusterError {
    ClusterError::Missing { program: program.to_owned(), install: install.to_owned() }
}

fn on_path(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    env::split_paths(path?).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Where what is fetched stays; also the place for locks of this user's processes.
pub(super) fn cache_dir() -> Result<PathBuf, ClusterError> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let cache =
        cache.ok_or_else(|| ClusterError::Options("neither XDG_CACHE_HOME nor HOME is set".to_owned()))?;
    Ok(cache.join("homing"))
}

fn version_in(jars: &Path) -> Result<String, ClusterError> {
    let entries = fs::read_dir(jars).map_err(ClusterError::io(format!("KAFKA_HOME: {}", jars.display())))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let version = |name: String| Some(name.strip_prefix("kafka-clients-")?.strip_suffix(".jar")?.to_owned());
    let none = || ClusterError::Options(format!("KAFKA_HOME: {} has no kafka-clients jar", jars.display()));
    names
        .filter_map(version)
        .find(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(none)
}

/// Has Maven copy the jars into a directory beside, then renames it to `jars`.
fn fetch(version: &str, jars: &Path) -> Result<(), ClusterError> {
    let cache = jars.parent().expect("the cache is a directory in a directory");
    fs::create_dir_all(cache).map_err(ClusterError::file(cache))?;
    let lock_path = cache.join(format!("kafka-{version}.lock"));
    let lock = File::create(&lock_path).map_err(ClusterError::file(&lock_path))?;
    lock.lock().map_err(ClusterError::file(&lock_path))?;
    if jars.is_dir() {
        return Ok(()); // another process has just fetched them
    }
    let mvn = on_path("mvn", env::var_os("PATH").as_deref())
        .ok_or_else(|| missing("mvn (Maven)", INSTALL_MAVEN))?;
    let work =
        tempfile::Builder::new().prefix("fetching-").tempdir_in(cache).map_err(ClusterError::file(cache))?;
    let pom = work.path().join("pom.xml");
    fs::write(&pom, project(version)).map_err(ClusterError::file(&pom))?;
    let fetched = work.path().join("lib");
    tracing::info!(version, "fetching Apache Kafka from Maven Central");
    let output = Command::new(mvn)
        .args(["--batch-mode", "--quiet", "--strict-checksums", "--file"])
        .arg(&pom)
        .arg(MAVEN_PLUGIN)
        .arg(format!("-DoutputDirectory={}", fetched.display()))
        .arg("-DincludeScope=runtime")
        .stdin(Stdio::null())
        .output()
        .map_err(ClusterError::io("mvn"))?;
    let complete = version_in(&fetched).is_ok_and(|found| found == version);
    if !output.status.success() || !complete {
        let printed = [output.stdout, output.stderr].concat();
        let output = String::from_utf8_lossy(&printed).trim().to_owned();
        return Err(ClusterError::Failed {
            doing: format!("fetching Apache Kafka {version} with mvn"),
            output,
        });
    }
    fs::rename(&fetched, jars).map_err(ClusterError::file(jars))
}

fn project(version: &str) -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>homing</groupId><artifactId>kafka-under-test</artifactId><version>1</version>\n  \
         <dependencies>\n{}{}{}  </dependencies>\n</project>\n",
        dependency("org.apache.kafka", "kafka_2.13", version),
        dependency("org.apache.kafka", "kafka-tools", version),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
    )
}
