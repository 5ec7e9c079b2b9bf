//! This program once more, with another command, as a process of its own.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::{self, Launch, Process};
use super::{create_dir, lock};

const READY_LIMIT: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(10);
/// What a sibling says when it serves, followed by its address.
const READY: &str = "ready ";

/// A running sibling. Dropping it asks it to end; [`Sibling::stop`] also waits until it has.
pub struct Sibling {
    /// Where it serves, as `http://…`.
    pub address: String,
    process: Process,
    _lock: File,
}

impl std::fmt::Debug for Sibling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sibling")
            .field("address", &self.address)
            .field("pid", &self.process.pid())
            .finish_non_exhaustive()
    }
}

impl Sibling {
    /// Starts this very program with the command `name` and these variables, in the folder `name` below `dir`, and waits until
    /// it says `ready` and its address on a line of standard output.
    ///
    /// # Errors
    /// When the folder is in use, or it does not come up: then with the end of its log.
    pub async fn start(dir: &Path, name: &'static str, env: Vec<(&'static str, String)>) -> Result<Self> {
        let home = dir.join(name);
        create_dir(&home)?;
        let home = fs::canonicalize(&home).with_context(|| format!("no folder {}", home.display()))?;
        let held = lock(&home)?;
        let (log, pid_file) = (home.join("server.log"), home.join("server.pid"));
        process::end_predecessor(&pid_file, &home, GRACE).await?;
        let program = std::env::current_exe().context("the program does not know where it is")?;
        let process = Process::spawn(Launch {
            name,
            program: &program,
            args: vec![name.into()],
            env,
            home: &home,
            tmp: &home,
            log: &log,
            pid_file: &pid_file,
            death_signal: "TERM",
            grace: GRACE,
        })
        .await?;
        process.wait_ready(READY_LIMIT, || std::future::ready(address_in(&log).is_some())).await?;
        let address = address_in(&log).with_context(|| format!("{name} does not say where it serves"))?;
        tracing::info!(name, address, pid = process.pid(), "sibling started");
        Ok(Self { address, process, _lock: held })
    }

    /// Resolves with its name when it ends by itself.
    pub async fn ended(&self) -> &'static str {
        self.process.ended().await;
        self.process.name()
    }

    /// Ends it in good order and waits until it is gone.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}

/// The address, once its whole line has been written.
fn address_in(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let whole = &text[..=text.rfind('\n')?];
    whole.lines().find_map(|line| line.strip_prefix(READY)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_when_its_line_is_whole() {
        let log = std::env::temp_dir().join(format!("frontrow-{}", hex::encode(rand::random::<[u8; 8]>())));
        assert_eq!(address_in(&log), None);
        for (text, expected) in [
            ("", None),
            ("{\"level\": \"INFO\"}\n", None),
            ("{}\nready http://127.0.0.1:80", None),
            ("{}\nready http://127.0.0.1:8080\nmore", Some("http://127.0.0.1:8080")),
        ] {
            fs::write(&log, text).unwrap();
            assert_eq!(address_in(&log).as_deref(), expected, "{text:?}");
        }
        fs::remove_file(&log).unwrap();
    }
}
