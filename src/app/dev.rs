//! `frontrow dev` and `frontrow services`: private database, Redis and card provider processes, and a demonstration.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rand::RngCore as _;
use tokio::net::TcpListener;

use super::config::Config;
use super::demonstration::{self, OPERATOR, PASSWORD};
use super::psp::{self, Beside};
use super::state::State;
use super::{schema, serve};
use crate::platform::clock::Clock;
use crate::platform::embedded::{Engine, Options, Services, Sibling};
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry;

const DATABASE: &str = "FRONTROW__DATABASE__URL";
const OWNER: &str = "FRONTROW__DATABASE__MIGRATION_URL";
const REDIS: &str = "FRONTROW__REDIS__URL";
const TOKEN_KEYS: &str = "FRONTROW__SECRETS__TOKEN_KEYS";

/// The settings that private servers bring, and the servers.
async fn start(dir: &Path, engine: Option<Engine>) -> anyhow::Result<(Vec<(&'static str, String)>, Services)> {
    let services = Services::start(&Options { dir: dir.to_owned(), engine }).await?;
    let settings = vec![
        (DATABASE, services.server_url.clone()),
        (OWNER, services.database_url.clone()),
        (REDIS, services.redis_url.clone()),
        (TOKEN_KEYS, token_keys(dir)?),
    ];
    Ok((settings, services))
}

/// The keys that seal tokens: made once per folder, readable by its owner only.
fn token_keys(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("token-keys");
    if let Ok(text) = fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    fs::create_dir_all(dir)?;
    let mut key = [0_u8; 32];
    rand::rng().fill_bytes(&mut key);
    let text = format!("1:{}", hex::encode(key));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    writeln!(file, "{text}")?;
    Ok(text)
}

/// Runs private servers, prints the settings that `serve` needs and `ready`, until it is told to stop. Webhooks of the card
/// provider go to `webhook_url`; to the address that `serve` has by default where there is none.
///
/// # Errors
/// Where the servers do not start, a server ends again and again, or the card provider ends by itself.
pub async fn services(
    file: Option<&Path>,
    dir: &Path,
    engine: Option<Engine>,
    webhook_url: Option<String>,
) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;
    let webhook_url = match webhook_url {
        Some(url) => url,
        None => psp::webhooks_at(lookup(&Config::load(file, &[])?.http.addr).await?),
    };
    let (mut settings, mut services) = start(dir, engine).await?;
    let beside = match psp::beside(dir, webhook_url).await {
        Ok(beside) => beside,
        Err(error) => {
            services.stop().await;
            return Err(error);
        }
    };
    settings.extend(beside.settings.iter().cloned());
    for (name, value) in settings {
        println!("{name}={value}");
    }
    println!("ready");
    std::io::stdout().flush()?;
    let ended = tokio::select! {
        () = shutdown.requested() => None,
        name = services.keep_up() => Some(name),
        name = beside.process.ended() => Some(name),
    };
    tokio::join!(services.stop(), beside.process.stop());
    match ended {
        None => Ok(()),
        Some(name) => anyhow::bail!("{name} has ended: see its log in {}", dir.display()),
    }
}

async fn lookup(addr: &str) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(addr).await.with_context(|| format!("{addr} is no address"))?;
    found.next().with_context(|| format!("{addr} is no address"))
}

/// Serves with a demonstration, over private servers where none are configured.
///
/// # Errors
/// Where the servers do not start or the demonstration cannot be made.
pub async fn dev(file: Option<&Path>, dir: &Path) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;
    // Before the servers, as the card provider is told where to send its webhooks.
    let listener = serve::bind(&Config::load(file, &[])?.http.addr).await?;
    let own = [DATABASE, REDIS].iter().all(|name| std::env::var_os(name).is_some());
    let (mut settings, mut services) = if own {
        (vec![(TOKEN_KEYS, token_keys(dir)?)], None)
    } else {
        println!("Starting private database and Redis processes in {} …", dir.display());
        let (settings, services) = start(dir, None).await?;
        (settings, Some(services))
    };
    settings.push(("FRONTROW__POINTS__CHARGE_WITHOUT_CARD", "true".into()));
    settings.push(("FRONTROW__LOG__FORMAT", "text".into()));
    settings.push(("FRONTROW__MAIL__TRANSPORT", "files".into()));
    settings.push(("FRONTROW__MAIL__FOLDER", dir.join("mail").display().to_string()));
    settings.push(("FRONTROW__NOTICES__PLAIN_HTTP", "true".into()));
    settings.push(("FRONTROW__NOTICES__PRIVATE_ADDRESSES", "127.0.0.0/8, ::1/128".into()));
    let outcome = Box::pin(with_cards(file, dir, listener, settings, services.as_mut(), &shutdown)).await;
    if let Some(services) = services {
        services.stop().await;
    }
    outcome
}

/// Starts a card provider where none is configured, and ends it after everything that may need it.
async fn with_cards(
    file: Option<&Path>,
    dir: &Path,
    listener: TcpListener,
    mut settings: Vec<(&'static str, String)>,
    services: Option<&mut Services>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let is_configured = !Config::load(file, &settings)?.payments.base_url.is_empty();
    if is_configured {
        return Box::pin(serve_demonstration(file, listener, &settings, services, None, shutdown)).await;
    }
    let Beside { settings: cards, process } = psp::beside(dir, psp::webhooks_at(listener.local_addr()?)).await?;
    settings.extend(cards);
    let outcome = Box::pin(serve_demonstration(file, listener, &settings, services, Some(&process), shutdown)).await;
    process.stop().await;
    outcome
}

async fn serve_demonstration(
    file: Option<&Path>,
    listener: TcpListener,
    settings: &[(&'static str, String)],
    services: Option<&mut Services>,
    cards: Option<&Sibling>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let config = Config::load(file, settings)?;
    telemetry::init_logs(&config.log)?;
    schema::prepare(&config.database).await?;
    let state = State::new(config, Clock::default())?;
    state.db.align_clock().await?;
    let base = format!("http://{}", listener.local_addr()?);
    let made = demonstration::prepare(&state).await.context("the demonstration could not be made")?;
    let engine = services.as_ref().map(|services| services.engine);
    println!("{}", welcome(&base, engine, &cards_of(&state.config, cards.is_some()), &state.config, &made));
    std::io::stdout().flush()?;
    let serving = serve::run(state, listener, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        outcome = &mut serving => return outcome,
        name = ended(services, cards) => tracing::error!(name, "a private process has ended"),
    }
    shutdown.request();
    serving.await
}

async fn ended(services: Option<&mut Services>, cards: Option<&Sibling>) -> &'static str {
    let services = async {
        match services {
            Some(services) => services.keep_up().await,
            None => std::future::pending().await,
        }
    };
    let cards = async {
        match cards {
            Some(cards) => cards.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        name = services => name,
        name = cards => name,
    }
}

/// Where cards are charged. The key is shown of a sandbox only.
fn cards_of(config: &Config, is_sandbox: bool) -> String {
    let (address, key) = (&config.payments.base_url, config.payments.secret_key.expose());
    if is_sandbox {
        format!("{address}, a sandbox (key {key}): pm_card_visa pays, pm_card_chargeDeclined does not")
    } else {
        address.clone()
    }
}

fn welcome(
    base: &str,
    engine: Option<Engine>,
    cards: &str,
    config: &Config,
    made: &demonstration::Demonstration,
) -> String {
    let engine = engine.map_or_else(|| "as configured".to_owned(), |engine| format!("{engine:?}"));
    let (arena, club, token) = (&made.arena, &made.club, &made.buyer_token);
    format!(
        "\nfrontrow is ready.\n\
         \n  server     {base}\n  API        {base}/docs\n  metrics    {base}/metrics\n  \
         database   {engine}: {database}\n  Redis      {redis}\n  cards      {cards}\n  mails      {mails}\n\
         \n  operator   {OPERATOR}\n  buyers     {buyers}\n  password   {PASSWORD} (all of them)\n\
         \n  arena      {base}/v1/concerts/{arena}   open now\n  club       {base}/v1/concerts/{club}   opens in three minutes\n\
         \nTry it (each line works as it is; the second one joins the line as buyer1, the third charges 50,000 points):\n\
         \n  curl -s {base}/v1/concerts/{arena}/queue\n\
         \n  curl -s -X POST {base}/v1/concerts/{arena}/queue/tickets -H 'Authorization: Bearer {token}'\n\
         \n  curl -s -X POST {base}/v1/me/points/charges -H 'Authorization: Bearer {token}' -H 'Idempotency-Key: try-1' \
         -H 'Content-Type: application/json' -d '{{\"amount\": 50000}}'\n\
         \nCtrl-C ends it.\n",
        database = config.database.url.expose(),
        redis = config.redis.url.expose(),
        mails = config.mail.folder.display(),
        buyers = made.buyers.join(", "),
    )
}
