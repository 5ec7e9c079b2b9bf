//! How a letter leaves: to a mail server, or into a folder as one `.eml` file each.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use super::domain::{Letter, MailId};
use crate::notices::settings::{MailSettings, Tls, TransportKind};
use crate::platform::config::ConfigError;

/// How long an idle connection to the mail server is kept.
const IDLE: Duration = Duration::from_secs(30);
/// What a mail server says of a recipient, for good. Of other refusals (a password that is wrong, a quota) the operator may see to
/// it that the next try is taken.
const NO_SUCH_MAILBOX: &[u16] = &[550, 551, 553, 556];

/// Why a letter did not leave.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Whether another try is in vain.
    pub is_permanent: bool,
    /// In a word, without an address.
    pub word: String,
}

impl Refusal {
    /// One that may be gone at the next try.
    #[must_use]
    pub fn passing(word: &str) -> Self {
        Self { is_permanent: false, word: word.to_owned() }
    }

    /// One that will not.
    #[must_use]
    pub fn permanent(word: &str) -> Self {
        Self { is_permanent: true, word: word.to_owned() }
    }
}

/// A way for letters to leave.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends a letter. A repeat has the same `Message-ID`.
    fn send(&self, id: MailId, letter: Letter) -> BoxFuture<'_, Result<(), Refusal>>;
}

/// The transport that the settings ask for; none where mails do not leave.
///
/// # Errors
/// Where a setting makes no sense.
pub fn of(settings: &MailSettings) -> Result<Option<Arc<dyn Transport>>, ConfigError> {
    let sender = || Sender::new(&settings.from);
    Ok(match settings.transport {
        TransportKind::None => None,
        TransportKind::Files => Some(Arc::new(Files { sender: sender()?, folder: settings.folder.clone() })),
        TransportKind::Smtp => Some(Arc::new(Smtp { sender: sender()?, server: server(settings)? })),
    })
}

/// Whom mails come from.
#[derive(Clone, Debug)]
struct Sender {
    mailbox: Mailbox,
}

impl Sender {
    fn new(from: &str) -> Result<Self, ConfigError> {
        let refuse = |_| ConfigError::Rejected {
            name: "mail.from",
            reason: "a sender such as frontrow <tickets@example.com>".to_owned(),
        };
        Ok(Self { mailbox: from.parse().map_err(refuse)? })
    }

    fn message(&self, id: MailId, letter: Letter) -> Result<Message, Refusal> {
        let address: Address = letter.to.email.parse().map_err(|_| Refusal::permanent("bad_address"))?;
        let domain = self.mailbox.email.domain();
        // Line breaks in a name cannot be written at all.
        let name = letter.to.name.replace(char::is_control, " ");
        let message = Message::builder()
            .from(self.mailbox.clone())
            .to(Mailbox::new(Some(name), address))
            .subject(letter.subject)
            .message_id(Some(format!("<{id}@{domain}>")))
            .multipart(MultiPart::alternative_plain_html(letter.text, letter.html));
        message.map_err(|_| Refusal::permanent("bad_letter"))
    }
}

#[derive(Debug)]
struct Files {
    sender: Sender,
    folder: PathBuf,
}

impl Transport for Files {
    fn send(&self, id: MailId, letter: Letter) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let text = self.sender.message(id, letter)?.formatted();
            let write = async {
                tokio::fs::create_dir_all(&self.folder).await?;
                // A reader never sees half of it.
                let part = self.folder.join(format!("{id}.part"));
                tokio::fs::write(&part, text).await?;
                tokio::fs::rename(&part, self.folder.join(format!("{id}.eml"))).await
            };
            write.await.map_err(|_| Refusal::passing("folder"))
        })
    }
}

struct Smtp {
    sender: Sender,
    server: AsyncSmtpTransport<Tokio1Executor>,
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").finish_non_exhaustive()
    }
}

fn server(settings: &MailSettings) -> Result<AsyncSmtpTransport<Tokio1Executor>, ConfigError> {
    type Server = AsyncSmtpTransport<Tokio1Executor>;
    let refuse = |reason: String| ConfigError::Rejected { name: "mail.host", reason };
    if settings.host.is_empty() {
        return Err(refuse("not set: the mail server's name".to_owned()));
    }
    let builder = match settings.tls {
        Tls::None => Ok(Server::builder_dangerous(&settings.host)),
        Tls::Starttls => Server::starttls_relay(&settings.host),
        Tls::Implicit => Server::relay(&settings.host),
    };
    let builder = builder.map_err(|error| refuse(error.to_string()))?;
    let pool = PoolConfig::new().max_size(settings.connections_max.max(1)).idle_timeout(IDLE);
    let mut builder =
        builder.port(settings.port).timeout(Some(Duration::from_millis(settings.timeout_ms))).pool_config(pool);
    if !settings.user.is_empty() {
        builder = builder.credentials(Credentials::new(settings.user.clone(), settings.password.expose().to_owned()));
    }
    Ok(builder.build())
}

impl Transport for Smtp {
    fn send(&self, id: MailId, letter: Letter) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let message = self.sender.message(id, letter)?;
            let sent = self.server.send(message).await;
            sent.map(drop).map_err(|error| {
                // The server's words may name the address: its code alone is kept.
                let word = match error.status() {
                    Some(code) => format!("smtp_{code}"),
                    None if error.is_timeout() => "timeout".to_owned(),
                    None => "unreachable".to_owned(),
                };
                let is_permanent = error.status().is_some_and(|code| NO_SUCH_MAILBOX.contains(&u16::from(code)));
                Refusal { is_permanent, word }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notices::mail::Recipient;

    fn letter(email: &str) -> Letter {
        let to = Recipient { email: email.into(), name: "김민지, \"A\"\r\nBcc: x@example.com".into() };
        Letter { to, subject: "서울\r\nBcc: y@example.com".into(), text: "t".into(), html: "h".into() }
    }

    #[test]
    fn nothing_that_somebody_chose_becomes_a_header() {
        let sender = Sender::new("frontrow <tickets@example.com>").unwrap();
        let id = MailId::new();
        let text = sender.message(id, letter("minji@example.com")).unwrap().formatted();
        let text = String::from_utf8(text).unwrap();
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(head.contains(&format!("Message-ID: <{id}@example.com>")), "{head}");
    }

    #[test]
    fn an_address_that_is_none_is_refused_for_good() {
        let sender = Sender::new("tickets@example.com").unwrap();
        assert!(sender.message(MailId::new(), letter("a..b@@example.com")).unwrap_err().is_permanent);
        assert!(Sender::new("nobody").is_err());
    }
}
