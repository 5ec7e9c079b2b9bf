//! The command line: arguments → configuration → the command.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::config::Config;
use super::state::State;
use super::{audit, dev, draw, payments, psp, schema, seed, serve, warm, webhooks};
use crate::platform::clock::Clock;
use crate::platform::db;
use crate::platform::embedded::Engine;
use crate::platform::shutdown::Shutdown;
use crate::platform::telemetry;

/// Sells concert seats at the moment when everybody wants them.
#[derive(Debug, Parser)]
#[command(name = "frontrow", version)]
pub struct Arguments {
    /// A file of settings, over the defaults and under the environment.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve. Needs `FRONTROW__DATABASE__URL`, `FRONTROW__REDIS__URL` and `FRONTROW__SECRETS__TOKEN_KEYS`.
    Serve,
    /// Serve a demonstration, with private database, Redis and card provider processes where none are configured.
    Dev {
        /// Where the private servers keep their data.
        #[arg(long, default_value = ".frontrow/dev")]
        dir: PathBuf,
    },
    /// Run private servers and print the settings that `serve` needs.
    Services {
        /// Where they keep their data.
        #[arg(long)]
        dir: PathBuf,
        /// `mysql` or `mariadb`; MySQL where it is found if left out.
        #[arg(long)]
        engine: Option<Engine>,
        /// Where the card provider's webhooks go; to `serve` at its default address if left out.
        #[arg(long, value_name = "URL")]
        webhook_url: Option<String>,
    },
    /// Run a card provider to try things with, which speaks Stripe's API and misbehaves on command.
    Psp(psp::Psp),
    /// Bring the schema up to date.
    Migrate,
    /// Check every invariant against the whole live database. Ends with 1 on a breach.
    Audit,
    /// Recompute a sale's draw. Needs no settings.
    Draw {
        #[command(subcommand)]
        what: Draw,
    },
    /// Make data.
    Seed {
        #[command(subcommand)]
        what: Seed,
    },
    /// Manage operators.
    Operator {
        #[command(subcommand)]
        what: Operator,
    },
    /// Look after payments by card that are open for long.
    Payments {
        #[command(subcommand)]
        what: Payments,
    },
    /// Look after deliveries to webhooks.
    Webhooks {
        #[command(subcommand)]
        what: Webhooks,
    },
    /// Load concerts anew into the caches of the instances that run. Ends with 1 where that was waited for and took longer.
    Warm(warm::Warm),
    /// Ask a running instance whether it is alive: for container health checks.
    Healthcheck,
}

#[derive(Debug, Subcommand)]
enum Draw {
    /// Check that the seed is the one committed to, and tell ranks. Ends with 1 where it is not, or there is no draw.
    Verify(draw::Verify),
}

#[derive(Debug, Subcommand)]
enum Seed {
    /// Make users with points and print a JSON line for each.
    Users {
        /// How many.
        #[arg(long)]
        count: u32,
        /// Points of each.
        #[arg(long, default_value_t = 0)]
        points: i64,
    },
}

#[derive(Debug, Subcommand)]
enum Operator {
    /// Make an operator; the password is read from standard input.
    Create {
        /// The address to sign in with.
        #[arg(long)]
        email: String,
    },
}

#[derive(Debug, Subcommand)]
enum Payments {
    /// Print a JSON line for each payment that is undecided, or whose refund is owed.
    Open,
    /// End one by hand, where the provider cannot: after looking at the provider's own pages.
    Close(payments::Close),
}

#[derive(Debug, Subcommand)]
enum Webhooks {
    /// Print a JSON line for each delivery that was tried as often as it may be.
    Dead,
    /// Send such deliveries again, from the first try on.
    Resend(webhooks::Resend),
}

/// Runs the command. Failures are told on standard error.
pub async fn run(arguments: Arguments) -> ExitCode {
    match Box::pin(execute(arguments)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("frontrow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let file = arguments.config.as_deref();
    match arguments.command {
        Command::Serve => {
            let state = state(file, true)?;
            let shutdown = Shutdown::default();
            shutdown.listen_to_signals()?;
            let listener = serve::bind(&state.config.http.addr).await?;
            serve::run(state, listener, shutdown).await?;
        }
        Command::Dev { dir } => Box::pin(dev::dev(file, &dir)).await?,
        Command::Services { dir, engine, webhook_url } => dev::services(file, &dir, engine, webhook_url).await?,
        Command::Psp(asked) => psp::run(file, asked).await?,
        Command::Migrate => {
            let config = Config::load(file, &[])?;
            telemetry::init_logs(&config.log)?;
            let count = schema::prepare(&config.database).await?;
            println!("{count} migrations are applied");
        }
        Command::Audit => return audit(file).await,
        Command::Draw { what: Draw::Verify(given) } => draw::verify(file, &given).await?,
        Command::Seed { what: Seed::Users { count, points } } => {
            seed::users(&state(file, false)?, count, points).await?;
        }
        Command::Operator { what: Operator::Create { email } } => seed::operator(&state(file, false)?, &email).await?,
        Command::Payments { what: Payments::Open } => payments::open(&state(file, false)?).await?,
        Command::Payments { what: Payments::Close(given) } => payments::close(&state(file, false)?, &given).await?,
        Command::Webhooks { what: Webhooks::Dead } => webhooks::dead(&state(file, false)?).await?,
        Command::Webhooks { what: Webhooks::Resend(given) } => webhooks::resend(&state(file, false)?, &given).await?,
        Command::Warm(given) => return warm::run(&state(file, false)?, &given).await,
        Command::Healthcheck => return healthcheck(&Config::load(file, &[])?.http.addr).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn state(file: Option<&std::path::Path>, logs: bool) -> anyhow::Result<State> {
    let config = Config::load(file, &[])?;
    if logs {
        telemetry::init_logs(&config.log)?;
    }
    Ok(State::new(config, Clock::default())?)
}

async fn audit(file: Option<&std::path::Path>) -> anyhow::Result<ExitCode> {
    let config = Config::load(file, &[])?;
    let db = db::Db::new(&config.database, Clock::default())?;
    let report = audit::run(&db, &config.jobs, None).await;
    for finding in &report.findings {
        let word = match (&finding.error, finding.breaches.is_empty()) {
            (Some(_), _) => "FAILED",
            (None, true) => "holds ",
            (None, false) => "BROKEN",
        };
        println!("{word}  {:<32} {}", finding.invariant, finding.promise);
        for line in finding.breaches.iter().chain(&finding.error) {
            println!("        {line}");
        }
    }
    let is_complete = report.findings.iter().all(|finding| finding.error.is_none());
    println!(
        "{}",
        match (report.is_clean, is_complete) {
            (true, _) => "The audit is clean.",
            (false, true) => "The audit found breaches.",
            (false, false) => "The audit could not check everything.",
        }
    );
    Ok(if report.is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A plain request by hand: the container needs no other program for it.
async fn healthcheck(addr: &str) -> anyhow::Result<ExitCode> {
    let port = addr.rsplit(':').next().unwrap_or("8080");
    let asked = tokio::time::timeout(std::time::Duration::from_secs(3), async {
        let mut stream = tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        anyhow::Ok(head == *b"HTTP/1.1 200")
    });
    Ok(if matches!(asked.await, Ok(Ok(true))) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
