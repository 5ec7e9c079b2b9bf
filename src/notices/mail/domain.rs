//! Mails, letters, and when one is tried again.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::accounts::UserId;
use crate::platform::clock::Timestamp;

crate::id_types! {
    /// A mail on its way.
    MailId;
}

/// Which letter a mail is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A reservation is confirmed; the reference is the reservation.
    Confirmation,
    /// Shows that somebody reads the mail of an address; the reference is the request.
    Verification,
    /// Lets somebody set a new password; the reference is the request.
    PasswordReset,
}

impl Kind {
    /// Its number in rows.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Confirmation => 0,
            Self::Verification => 1,
            Self::PasswordReset => 2,
        }
    }

    /// The kind of this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Confirmation),
            1 => Some(Self::Verification),
            2 => Some(Self::PasswordReset),
            _ => None,
        }
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confirmation => "confirmation",
            Self::Verification => "verification",
            Self::PasswordReset => "password_reset",
        }
    }
}

/// A mail that was claimed.
#[derive(Clone, Copy, Debug)]
pub struct Mail {
    /// The mail.
    pub id: MailId,
    /// Which letter.
    pub kind: Kind,
    /// To whom.
    pub user: UserId,
    /// About what.
    pub reference: Uuid,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Tries before this one.
    pub attempts: u32,
    /// The claim's number.
    pub fence: u32,
}

/// To whom a letter goes. Does not print.
#[derive(Clone)]
pub struct Recipient {
    /// The address.
    pub email: String,
    /// The name.
    pub name: String,
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// What a mail says. Its text does not print: it may hold a token.
#[derive(Clone)]
pub struct Letter {
    /// To whom.
    pub to: Recipient,
    /// One line.
    pub subject: String,
    /// For who reads plain text.
    pub text: String,
    /// The same for who does not.
    pub html: String,
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// How long after each try the next one comes, in seconds: together about half a day.
const DELAYS_SECS: [u32; 6] = [10, 60, 300, 1800, 7200, 36_000];

/// How long to wait after so many tries have failed; nothing where there is no other. `spread` from 0 to 1 moves it by a fifth
/// either way.
#[must_use]
pub fn delay_after(tries: u32, spread: f64) -> Option<Duration> {
    let index = usize::try_from(tries).ok()?.checked_sub(1)?;
    let secs = f64::from(*DELAYS_SECS.get(index)?);
    Some(Duration::from_secs_f64(secs * (0.8 + 0.4 * spread.clamp(0.0, 1.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_numbers_of_their_own() {
        for kind in [Kind::Confirmation, Kind::Verification, Kind::PasswordReset] {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::from_number(3), None);
    }

    #[test]
    fn what_fails_is_tried_for_half_a_day() {
        let delays: Vec<Duration> = (1..).map_while(|tries| delay_after(tries, 0.5)).collect();
        assert_eq!(delays.len(), 6);
        let total: u64 = delays.iter().map(Duration::as_secs).sum();
        assert!((11..14).contains(&(total / 3600)), "{total} s");
        assert_eq!(delay_after(0, 0.5), None);
    }

    #[test]
    fn neither_an_address_nor_a_token_prints() {
        let to = Recipient { email: "minji@example.com".into(), name: "Kim Minji".into() };
        let letter = Letter { to, subject: "Hello".into(), text: "token".into(), html: "token".into() };
        let shown = format!("{letter:?} {:?}", letter.to);
        assert!(!shown.contains("minji") && !shown.contains("Minji") && !shown.contains("token"), "{shown}");
    }
}
