//! Certificates made at run time with the `openssl` command: an authority, servers, clients, expired ones.

use super::ClusterError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The authority's own configuration; `openssl ca` runs in its directory.
const CONFIG: &str = "[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = issued
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[server]
subjectAltName = DNS:localhost, IP:127.0.0.1
extendedKeyUsage = serverAuth, clientAuth
basicConstraints = CA:FALSE
[client]
extendedKeyUsage = clientAuth
basicConstraints = CA:FALSE
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
";

const AS_AUTHORITY: &str = "-config authority.cnf -extensions authority";

/// A certificate authority with a directory of its own.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    /// How many it has issued; its database takes one writer at a time.
    issued: Mutex<u32>,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key (PKCS#8, not encrypted).
    pub key: PathBuf,
    /// Both in one file, as Kafka wants a PEM key store.
    pub store: PathBuf,
}

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A broker on this machine, for `127.0.0.1` and `localhost`.
    Server(&'a str),
    /// A client; its common name is its user.
    Client(&'a str),
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From yesterday, for ten years.
    Long,
    /// From yesterday until so long from now.
    For(Duration),
    /// In the year 2020 only.
    Expired,
}

impl Authority {
    /// Makes an authority in a new directory.
    ///
    /// # Errors
    /// When `openssl` is missing or the files cannot be written.
    pub fn create(dir: impl Into<PathBuf>, name: &str) -> Result<Self, ClusterError> {
        let dir = dir.into();
        fs::create_dir_all(dir.join("issued")).map_err(ClusterError::file(&dir))?;
        for (file, text) in [("authority.cnf", CONFIG), ("index.txt", "")] {
            fs::write(dir.join(file), text).map_err(ClusterError::file(&dir))?;
        }
        let authority = Self { dir, issued: Mutex::new(0) };
        authority.new_key("ca.key")?;
        let subject = format!("/CN={name}");
        let request = format!("req -x509 -new -key ca.key -days 3650 -out ca.pem {AS_AUTHORITY}");
        authority.openssl(&request, &["-subj", &subject])?;
        Ok(authority)
    }

    /// The authority's own certificate, for those who are to trust it.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// When `openssl` refuses.
    pub fn issue(&self, subject: Subject, validity: Validity) -> Result<Issued, ClusterError> {
        let (name, kind) = match subject {
            Subject::Server(name) => (name, "server"),
            Subject::Client(name) => (name, "client"),
        };
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        *issued += 1;
        self.issue_as(&format!("{kind}-{name}-{}", *issued), name, kind, validity)
    }

    /// Issues a certificate to files with a name of the caller's choice.
    pub(super) fn issue_as(
        &self,
        file: &str,
        name: &str,
        kind: &str,
        validity: Validity,
    ) -> Result<Issued, ClusterError> {
        let path = |extension: &str| self.dir.join(format!("{file}.{extension}"));
        let issued = Issued { cert: path("pem"), key: path("key"), store: path("store.pem") };
        self.new_key(&format!("{file}.key"))?;
        let request = format!("req -new -config authority.cnf -key {file}.key -out {file}.csr");
        self.openssl(&request, &["-subj", &format!("/CN={name}")])?;
        let (from, until) = validity.interval(SystemTime::now());
        let sign = format!(
            "ca -batch -notext -config authority.cnf -cert ca.pem -keyfile ca.key -in {file}.csr -out {file}.pem"
        );
        self.openssl(&sign, &["-extensions", kind, "-startdate", &from, "-enddate", &until])?;
        let read = |path: &Path| fs::read_to_string(path).map_err(ClusterError::file(path));
        let store = read(&issued.key)? + &read(&issued.cert)? + &read(&self.ca())?;
        fs::write(&issued.store, store).map_err(ClusterError::file(&issued.store))?;
        Ok(issued)
    }

    fn new_key(&self, file: &str) -> Result<(), ClusterError> {
        let curve = "ec_paramgen_curve:P-256";
        self.openssl("genpkey -algorithm EC", &["-pkeyopt", curve, "-out", file])
    }

    /// Runs openssl in the directory with the words of `args`, and `more` as they are.
    fn openssl(&self, args: &str, more: &[&str]) -> Result<(), ClusterError> {
        let mut command = Command::new("openssl");
        command.args(args.split(' ')).args(more);
        let output = command.current_dir(&self.dir).stdin(Stdio::null()).output();
        let output = output.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ClusterError::Missing {
                program: "openssl".to_owned(),
                install: "apt-get install openssl".to_owned(),
            },
            _ => ClusterError::Io { doing: "openssl".to_owned(), error },
        })?;
        if output.status.success() {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ClusterError::Failed { doing: format!("{command:?}"), output: printed })
    }
}

impl Validity {
    /// Begin and end, as certificates have them.
    fn interval(self, now: SystemTime) -> (String, String) {
        match self {
            Self::Long => (utc(now - DAY), utc(now + DAY * 3650)),
            Self::For(time) => (utc(now - DAY), utc(now + time)),
            Self::Expired => ("20200101000000Z".to_owned(), "20210101000000Z".to_owned()),
        }
    }
}

/// `YYYYMMDDHHMMSSZ`; days to dates as in Howard Hinnant's `civil_from_days`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101000000Z");
        assert_eq!(at(951_782_400), "20000229000000Z");
        assert_eq!(at(1_735_689_599), "20241231235959Z");
        assert_eq!(at(1_772_323_200), "20260301000000Z");
    }
}
