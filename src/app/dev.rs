//! `frontrow dev` and `frontrow services`: private database and Redis processes, and a demonstration.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rand::RngCore as _;

use super::config::Config;
use super::demonstration::{self, OPERATOR, PASSWORD};
use super::serve;
use super::state::State;
use crate::platform::clock::Clock;
use crate::platform::db;
use crate::platform::embedded::{Engine, Options, Services};
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry;

const DATABASE: &str = "FRONTROW__DATABASE__URL";
const REDIS: &str = "FRONTROW__REDIS__URL";
const TOKEN_KEYS: &str = "FRONTROW__SECRETS__TOKEN_KEYS";

/// The settings that private servers bring, and the servers.
async fn start(dir: &Path, engine: Option<Engine>) -> anyhow::Result<(Vec<(&'static str, String)>, Services)> {
    let services = Services::start(&Options { dir: dir.to_owned(), engine }).await?;
    let settings = vec![
        (DATABASE, services.database_url.clone()),
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

/// Runs private servers, prints the settings that `serve` needs and `ready`, until it is told to stop.
///
/// # Errors
/// Where the servers do not start, or one of them ends by itself.
pub async fn services(dir: &Path, engine: Option<Engine>) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;
    let (settings, services) = start(dir, engine).await?;
    for (name, value) in settings {
        println!("{name}={value}");
    }
    println!("ready");
    std::io::stdout().flush()?;
    tokio::select! {
        () = shutdown.requested() => {
            services.stop().await;
            Ok(())
        }
        name = services.ended() => {
            services.stop().await;
            anyhow::bail!("{name} ended by itself: see its log in {}", dir.display())
        }
    }
}

/// Serves with a demonstration, over private servers where none are configured.
///
/// # Errors
/// Where the servers do not start or the demonstration cannot be made.
pub async fn dev(file: Option<&Path>, dir: &Path) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    shutdown.listen_to_signals()?;
    let own = [DATABASE, REDIS].iter().all(|name| std::env::var_os(name).is_some());
    let (mut settings, services) = if own {
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
    let outcome = serve_demonstration(file, &settings, services.as_ref(), &shutdown).await;
    if let Some(services) = services {
        services.stop().await;
    }
    outcome
}

async fn serve_demonstration(
    file: Option<&Path>,
    settings: &[(&'static str, String)],
    services: Option<&Services>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let config = Config::load(file, settings)?;
    telemetry::init_logs(&config.log)?;
    db::migrate(&config.database).await?;
    let state = State::new(config, Clock::default())?;
    state.db.align_clock().await?;
    let listener = serve::bind(&state.config.http.addr).await?;
    let base = format!("http://{}", listener.local_addr()?);
    let made = demonstration::prepare(&state).await.context("the demonstration could not be made")?;
    let engine = services.map(|services| services.engine);
    println!("{}", welcome(&base, engine, &state.config, &made));
    std::io::stdout().flush()?;
    let serving = serve::run(state, listener, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        outcome = &mut serving => return outcome,
        name = ended(services) => tracing::error!(name, "a private server ended by itself"),
    }
    shutdown.request();
    serving.await
}

async fn ended(services: Option<&Services>) -> &'static str {
    match services {
        Some(services) => services.ended().await,
        None => std::future::pending().await,
    }
}

fn welcome(base: &str, engine: Option<Engine>, config: &Config, made: &demonstration::Demonstration) -> String {
    let engine = engine.map_or_else(|| "as configured".to_owned(), |engine| format!("{engine:?}"));
    let (arena, club, token) = (&made.arena, &made.club, &made.buyer_token);
    format!(
        "\nfrontrow is ready.\n\
         \n  server     {base}\n  API        {base}/docs\n  metrics    {base}/metrics\n  \
         database   {engine}: {database}\n  Redis      {redis}\n  mails      {mails}\n\
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
