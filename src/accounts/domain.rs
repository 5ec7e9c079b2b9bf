//! Users and their roles, what may be registered, and what an access token says.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::token::Reader;

crate::id_types! {
    /// A user.
    UserId;
    /// A session: one signing in.
    SessionId;
    /// An entry in the log of what operators did.
    ActionId;
}

crate::problem_codes! {
    BAD_CREDENTIALS = 401 "bad_credentials" "Wrong address or password" "No user has this e-mail address and this password.";
    EMAIL_UNVERIFIED = 403 "email_unverified" "Address not verified" "Buying needs a verified e-mail address here. Follow the link in the mail, or ask for another one with POST /v1/me/verifications.";
    LINK_EXPIRED = 410 "link_expired" "Link expired" "This code was used, is too old, or was never ours. Ask for a new one.";
    EMAIL_TAKEN = 409 "email_taken" "Address taken" "Another user is registered with this e-mail address. Sign in, or use another one.";
}

const EMAIL_CHARS_MAX: usize = 254;
const NAME_CHARS_MAX: usize = 100;
const PASSWORD_CHARS_MIN: usize = 8;
/// Longest password, in characters; it bounds the work of one hash.
pub const PASSWORD_CHARS_MAX: usize = 128;
/// How long a revocation outlives the tokens it concerns, in case a clock is set back a little.
pub const REVOCATION_MARGIN: Duration = Duration::from_mins(1);

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Buys.
    Buyer,
    /// Runs sales, and may do whatever a buyer may.
    Operator,
}

impl Role {
    /// Its number in rows and tokens.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Buyer => 0,
            Self::Operator => 1,
        }
    }

    /// The role of this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Buyer),
            1 => Some(Self::Operator),
            _ => None,
        }
    }

    /// Its name towards clients.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buyer => "buyer",
            Self::Operator => "operator",
        }
    }
}

/// A user who was not erased.
#[derive(Clone, Debug)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// The address, lower-cased.
    pub email: String,
    /// How to address them.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When they registered.
    pub created_at: Timestamp,
    /// When they showed that they read the mail of their address.
    pub verified_at: Option<Timestamp>,
}

/// A user to be stored.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Who.
    pub id: UserId,
    /// An address that passed [`checked_email`].
    pub email: String,
    /// A name that passed [`checked_name`].
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Whether somebody vouches for the address already: an operator who makes the user.
    pub is_verified: bool,
}

/// The address as it is stored: lower-cased.
///
/// # Errors
/// 422 `invalid_body` for `email`.
pub fn checked_email(text: &str) -> Result<String, Problem> {
    let refuse = |message: &str| Err(Problem::invalid_body("email", message));
    let email = text.to_lowercase();
    if email.chars().count() > EMAIL_CHARS_MAX {
        return refuse("at most 254 characters");
    }
    if email.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return refuse("no spaces and no control characters");
    }
    let mut parts = email.split('@');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(local), Some(domain), None) if !local.is_empty() && !domain.is_empty() => Ok(email),
        _ => refuse("an address such as name@example.com"),
    }
}

/// The name, as it came.
///
/// # Errors
/// 422 `invalid_body` for `name`.
pub fn checked_name(text: &str) -> Result<String, Problem> {
    let refuse = |message: &str| Err(Problem::invalid_body("name", message));
    if text.trim().is_empty() || text.chars().count() > NAME_CHARS_MAX {
        return refuse("1 to 100 characters");
    }
    if text.chars().any(char::is_control) {
        return refuse("no control characters");
    }
    Ok(text.to_owned())
}

/// Refuses a password that is too short or too long.
///
/// # Errors
/// 422 `invalid_body` for `password`.
pub fn check_password(text: &str) -> Result<(), Problem> {
    if (PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&text.chars().count()) {
        return Ok(());
    }
    Err(Problem::invalid_body("password", "8 to 128 characters"))
}

/// Who is signed in, as a request's token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// This signing in.
    pub id: SessionId,
    /// Who.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// When the token stops working.
    pub expires_at: Timestamp,
}

/// The payload of an access token: 49 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The session.
    pub session: SessionId,
    /// Who.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// When they signed in, on the database's clock.
    pub issued_at: Timestamp,
    /// When the token stops working.
    pub expires_at: Timestamp,
}

impl Claims {
    /// As bytes, times in whole milliseconds.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(49);
        bytes.extend_from_slice(self.session.0.as_bytes());
        bytes.extend_from_slice(self.user.0.as_bytes());
        bytes.push(self.role.number());
        bytes.extend_from_slice(&self.issued_at.millis().to_be_bytes());
        bytes.extend_from_slice(&self.expires_at.millis().to_be_bytes());
        bytes
    }

    /// Reads what [`Claims::encode`] wrote.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        let claims = Self {
            session: SessionId(reader.uuid()?),
            user: UserId(reader.uuid()?),
            role: Role::from_number(reader.bytes::<1>()?[0])?,
            issued_at: reader.time()?,
            expires_at: reader.time()?,
        };
        reader.is_done().then_some(claims)
    }

    /// What a request may know of it.
    #[must_use]
    pub const fn session(&self) -> Session {
        Session { id: self.session, user: self.user, role: self.role, expires_at: self.expires_at }
    }
}

/// What takes tokens back: one session, or all that a user had when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Revocation {
    /// Its own id.
    pub id: Uuid,
    /// The session; all of the user's where none is named.
    pub session: Option<SessionId>,
    /// Whose.
    pub user: UserId,
    /// When it was made, on the database's clock.
    pub created_at: Timestamp,
    /// When the last token concerned has expired.
    pub expires_at: Timestamp,
}

/// The revocations that still matter, in memory. Bounded by the tokens that are live.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Session → when its token has expired.
    sessions: HashMap<SessionId, Timestamp>,
    /// User → tokens issued up to when are taken back, and when the last of them has expired.
    users: HashMap<UserId, (Timestamp, Timestamp)>,
    pruned_at: Option<Timestamp>,
}

impl Revocations {
    /// Takes one in; the same one twice is the same as once.
    pub fn add(&mut self, revocation: &Revocation) {
        let Revocation { created_at, expires_at, .. } = *revocation;
        if let Some(session) = revocation.session {
            self.sessions.insert(session, expires_at);
        } else {
            let entry = self.users.entry(revocation.user).or_insert((created_at, expires_at));
            *entry = (entry.0.max(created_at), entry.1.max(expires_at));
        }
    }

    /// Whether the token with these claims was taken back.
    #[must_use]
    pub fn cover(&self, claims: &Claims) -> bool {
        self.sessions.contains_key(&claims.session)
            || self.users.get(&claims.user).is_some_and(|(up_to, _)| claims.issued_at <= *up_to)
    }

    /// Drops, about once a minute, those whose tokens have expired anyway.
    pub fn prune(&mut self, now: Timestamp) {
        if self.pruned_at.is_some_and(|last| last <= now && now.since(last) < Duration::from_mins(1)) {
            return;
        }
        self.pruned_at = Some(now);
        let oldest = now.minus(REVOCATION_MARGIN);
        self.sessions.retain(|_, expires_at| *expires_at > oldest);
        self.users.retain(|_, (_, expires_at)| *expires_at > oldest);
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len() + self.users.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000).unwrap()
    }

    fn claims(issued_at: i64) -> Claims {
        let (session, user) = (SessionId::new(), UserId(Uuid::nil()));
        Claims { session, user, role: Role::Operator, issued_at: at(issued_at), expires_at: at(issued_at + 100) }
    }

    fn revocation(session: Option<SessionId>, created_at: i64) -> Revocation {
        let (id, user) = (Uuid::now_v7(), UserId(Uuid::nil()));
        Revocation { id, session, user, created_at: at(created_at), expires_at: at(created_at + 100) }
    }

    #[test]
    fn claims_are_read_back_and_nothing_else_is() {
        let claims = claims(1_700_000_000);
        let bytes = claims.encode();
        assert_eq!(bytes.len(), 49);
        assert_eq!(Claims::decode(&bytes), Some(claims));
        assert_eq!(Claims::decode(&bytes[1..]), None);
        assert_eq!(Claims::decode(&[bytes.as_slice(), &[0]].concat()), None);
        let mut unknown_role = bytes;
        unknown_role[32] = 9;
        assert_eq!(Claims::decode(&unknown_role), None);
    }

    #[test]
    fn addresses_are_lower_cased_and_bounded() {
        assert_eq!(checked_email("Kim.Minji@Example.COM").unwrap(), "kim.minji@example.com");
        assert!(checked_email(&format!("{}@example.com", "a".repeat(242))).is_ok());
        assert!(checked_email(&format!("{}@example.com", "a".repeat(243))).is_err());
        for bad in ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", " a@b", "a@b\n", "a\0@b"] {
            assert!(checked_email(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_and_passwords_are_counted_in_characters() {
        assert!(checked_name(&"김".repeat(100)).is_ok());
        for bad in ["", "  ", "a\u{7}", &"김".repeat(101)] {
            assert!(checked_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_password(&"비".repeat(8)).is_ok());
        assert!(check_password(&"비".repeat(128)).is_ok());
        assert!(check_password(&"비".repeat(7)).is_err());
        assert!(check_password(&"비".repeat(129)).is_err());
    }

    #[test]
    fn a_revoked_session_is_covered_and_the_users_others_are_not() {
        let (mine, other) = (claims(10), claims(10));
        let mut revocations = Revocations::default();
        revocations.add(&revocation(Some(mine.session), 20));
        assert!(revocations.cover(&mine));
        assert!(!revocations.cover(&other));
    }

    #[test]
    fn revoking_a_user_covers_what_was_issued_before_and_not_after() {
        let mut revocations = Revocations::default();
        revocations.add(&revocation(None, 20));
        revocations.add(&revocation(None, 15));
        assert!(revocations.cover(&claims(20)));
        assert!(!revocations.cover(&claims(21)));
    }

    #[test]
    fn revocations_are_dropped_once_their_tokens_have_expired() {
        let mut revocations = Revocations::default();
        revocations.add(&revocation(None, 0));
        revocations.add(&revocation(Some(SessionId::new()), 0));
        revocations.prune(at(159));
        assert_eq!(revocations.len(), 2);
        revocations.prune(at(219));
        assert!(revocations.is_empty());
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn claims_are_read_from_what_was_written_only(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            if let Some(claims) = Claims::decode(&bytes) {
                proptest::prop_assert_eq!(claims.encode(), bytes);
            }
        }

        #[test]
        fn an_address_that_is_taken_fits_its_column(text in proptest::prelude::any::<String>(), ending in proptest::prelude::any::<String>()) {
            if let Ok(email) = checked_email(&format!("{text}@{ending}")) {
                proptest::prop_assert!(email.chars().count() <= EMAIL_CHARS_MAX);
                proptest::prop_assert!(!email.chars().any(|c| c.is_control() || c.is_whitespace()));
                proptest::prop_assert_eq!(checked_email(&email).unwrap(), email);
            }
        }
    }
}
