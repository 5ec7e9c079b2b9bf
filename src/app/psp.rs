//! `frontrow psp`: the sandbox of a card provider, by itself or beside `dev` and `services`.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rand::RngCore as _;

use super::config::Config;
use super::serve;
use crate::payments::{WEBHOOK_PATH, sandbox};
use crate::platform::config::Secret;
use crate::platform::embedded::Sibling;
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry;

/// The command, which is also the folder of the process.
const NAME: &str = "psp";
const ADDR: &str = "FRONTROW_PSP_ADDR";
const KEY: &str = "FRONTROW_PSP_KEY";
const WEBHOOK_URL: &str = "FRONTROW_PSP_WEBHOOK_URL";
const WEBHOOK_SECRET: &str = "FRONTROW_PSP_WEBHOOK_SECRET";
const SEED: &str = "FRONTROW_PSP_SEED";

/// The setting that says where the provider is.
pub(super) const BASE_URL: &str = "FRONTROW__PAYMENTS__BASE_URL";
const SECRET_KEY: &str = "FRONTROW__PAYMENTS__SECRET_KEY";
const SHARED_SECRET: &str = "FRONTROW__PAYMENTS__WEBHOOK_SECRET";

/// A sandbox, as it is asked for. Each option can be set by the variable that its help names, too.
#[derive(Debug, clap::Args)]
pub struct Psp {
    /// Address and port to listen on, `127.0.0.1:0` (a free port) if left out. [`FRONTROW_PSP_ADDR`]
    #[arg(long, value_name = "ADDR")]
    addr: Option<String>,
    /// The shop's secret key, `sk_test_…`. [`FRONTROW_PSP_KEY`, which others cannot read in a list of processes]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Where webhooks go, `http://…/v1/payments/webhooks`; nowhere if left out. [`FRONTROW_PSP_WEBHOOK_URL`]
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// What webhooks are signed with, `whsec_…`. [`FRONTROW_PSP_WEBHOOK_SECRET`]
    #[arg(long, value_name = "SECRET")]
    webhook_secret: Option<String>,
    /// The same calls in the same order meet the same faults, 1 if left out. [`FRONTROW_PSP_SEED`]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs the sandbox until it is told to stop. Prints `ready` and its address on one line.
///
/// # Errors
/// Where something is missing, or the address cannot be had.
pub async fn run(file: Option<&Path>, asked: Psp) -> anyhow::Result<()> {
    telemetry::init_logs(&Config::load(file, &[])?.log)?;
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;
    let given = |option: Option<String>, name: &str| option.or_else(|| std::env::var(name).ok());
    let needed = |option: Option<String>, name: &str, flag: &str| {
        let value = given(option, name).filter(|value| !value.is_empty());
        value.map(Secret::new).with_context(|| format!("{flag} or {name} is needed"))
    };
    let options = sandbox::Options {
        key: needed(asked.key, KEY, "--key")?,
        webhook_url: given(asked.webhook_url, WEBHOOK_URL).unwrap_or_default(),
        webhook_secret: needed(asked.webhook_secret, WEBHOOK_SECRET, "--webhook-secret")?,
        seed: match (asked.seed, std::env::var(SEED)) {
            (Some(seed), _) => seed,
            (None, Ok(text)) => text.parse().with_context(|| format!("{SEED} is a number"))?,
            (None, Err(_)) => 1,
        },
    };
    let addr = given(asked.addr, ADDR).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = serve::bind(&addr).await?;
    println!("ready http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    sandbox::serve(listener, options, shutdown).await
}

/// A sandbox beside this program, and the settings by which `serve` finds it.
pub(super) struct Beside {
    pub settings: Vec<(&'static str, String)>,
    pub process: Sibling,
}

/// Starts one below `dir`. Its secrets are made once per folder.
pub(super) async fn beside(dir: &Path, webhook_url: String) -> anyhow::Result<Beside> {
    let home = dir.join(NAME);
    let key = secret(&home, "key", "sk_test_")?;
    let webhook_secret = secret(&home, "webhook-secret", "whsec_")?;
    let env = vec![
        (ADDR, "127.0.0.1:0".to_owned()),
        (KEY, key.clone()),
        (WEBHOOK_URL, webhook_url),
        (WEBHOOK_SECRET, webhook_secret.clone()),
    ];
    let process = Sibling::start(dir, NAME, env).await?;
    let settings = vec![(BASE_URL, process.address.clone()), (SECRET_KEY, key), (SHARED_SECRET, webhook_secret)];
    Ok(Beside { settings, process })
}

/// Where the webhooks for a server at this address go.
pub(super) fn webhooks_at(mut addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        addr.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{addr}{WEBHOOK_PATH}")
}

/// Made on first use, readable by its owner only.
fn secret(home: &Path, name: &str, prefix: &str) -> anyhow::Result<String> {
    let path = home.join(name);
    if let Ok(text) = fs::read_to_string(&path)
        && text.trim().len() > prefix.len()
    {
        return Ok(text.trim().to_owned());
    }
    fs::create_dir_all(home)?;
    let mut random = [0_u8; 24];
    rand::rng().fill_bytes(&mut random);
    let text = format!("{prefix}{}", hex::encode(random));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    writeln!(file, "{text}")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_go_where_the_server_can_be_reached() {
        let at = |text: &str| webhooks_at(text.parse().unwrap());
        assert_eq!(at("127.0.0.1:8080"), "http://127.0.0.1:8080/v1/payments/webhooks");
        assert_eq!(at("0.0.0.0:80"), "http://127.0.0.1:80/v1/payments/webhooks");
        assert_eq!(at("[::]:80"), "http://127.0.0.1:80/v1/payments/webhooks");
    }

    #[test]
    fn secrets_are_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = std::env::temp_dir().join(format!("frontrow-{}", hex::encode(rand::random::<[u8; 8]>())));
        let made = secret(&home, "key", "sk_test_").unwrap();
        assert!(made.starts_with("sk_test_") && made.len() == 56, "{made}");
        assert_eq!(secret(&home, "key", "sk_test_").unwrap(), made);
        assert_ne!(secret(&home, "webhook-secret", "whsec_").unwrap(), made);
        assert_eq!(fs::metadata(home.join("key")).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(home).unwrap();
    }
}
