//! Registering, signing in and out, erasing, and telling from a token who sends a request.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use moka::sync::Cache;
use serde::Deserialize;
use uuid::Uuid;

use super::domain::{
    BAD_CREDENTIALS, Claims, EMAIL_TAKEN, NewUser, PASSWORD_CHARS_MAX, Revocation, Revocations, Role, Session,
    SessionId, User, UserId, check_password, checked_email, checked_name,
};
use super::passwords::Passwords;
use super::ports::{Letterbox, Request};
use super::store;
use crate::platform::clock::{Clock, Timestamp};
use crate::platform::config::Secret;
use crate::platform::db::{self, Db};
use crate::platform::error::{Fault, Problem, codes};
use crate::platform::token::{KeyRing, Sealer};

/// How far back each refresh reads again: longer than any unit of work may take from writing a row to
/// committing it.
const OVERLAP: Duration = Duration::from_secs(10);
/// Revocations read by one statement.
const REVOCATIONS_PER_READ: u32 = 1000;
/// Users stored by one statement.
const USERS_PER_INSERT: u32 = 500;
/// Users remembered as verified (about 100 bytes each).
const VERIFIED_MAX: u64 = 100_000;

/// `[accounts]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub session_hours: u32,
    pub hashing_parallel: usize,
    pub hashing_waiting_max: usize,
    pub require_verified: bool,
    pub verification_hours: u32,
    pub reset_minutes: u32,
}

/// What [`Accounts`] are built from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The database.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// The keys that seal tokens.
    pub keys: &'a KeyRing,
    /// Takes mails to be sent.
    pub letterbox: Arc<dyn Letterbox>,
    /// `[accounts]`.
    pub settings: &'a Settings,
}

/// What someone registers with, as it came.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The address.
    pub email: String,
    /// The password.
    pub password: Secret,
    /// How to address them.
    pub name: String,
}

/// What signing in gives.
#[derive(Debug)]
pub struct SignedIn {
    /// The sealed token.
    pub access_token: Secret,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// Who signed in.
    pub user: User,
}

/// What is known of the revocations.
#[derive(Debug, Default)]
struct Known {
    revocations: Revocations,
    /// False until they were read once: until then nobody can be let in.
    is_complete: bool,
}

/// The accounts of an installation, as one instance sees them. Shared in an `Arc`.
#[derive(Debug)]
pub struct Accounts {
    pub(super) db: Db,
    clock: Clock,
    sealer: Sealer,
    pub(super) passwords: Passwords,
    pub(super) session_life: Duration,
    pub(super) letterbox: Arc<dyn Letterbox>,
    pub(super) require_verified: bool,
    pub(super) verification_life: Duration,
    pub(super) reset_life: Duration,
    /// Whose address is known to be verified, which it stays.
    pub(super) verified: Cache<UserId, ()>,
    known: RwLock<Known>,
    /// The database's time of the last complete refresh. Held while one runs.
    refreshed_at: tokio::sync::Mutex<Option<Timestamp>>,
}

impl Accounts {
    /// The accounts in this database, with tokens under these keys.
    #[must_use]
    pub fn new(parts: Parts<'_>) -> Self {
        let Parts { db, clock, keys, letterbox, settings } = parts;
        Self {
            db,
            clock,
            letterbox,
            require_verified: settings.require_verified,
            verification_life: Duration::from_hours(u64::from(settings.verification_hours)),
            reset_life: Duration::from_mins(u64::from(settings.reset_minutes)),
            verified: Cache::new(VERIFIED_MAX),
            sealer: keys.sealer("access", b""),
            passwords: Passwords::new(settings.hashing_parallel, settings.hashing_waiting_max),
            session_life: Duration::from_secs(u64::from(settings.session_hours) * 3600),
            known: RwLock::default(),
            refreshed_at: tokio::sync::Mutex::default(),
        }
    }

    /// Registers a buyer, and asks for the mail by which they can verify their address.
    ///
    /// # Errors
    /// 422 `invalid_body`, 409 `email_taken`, 503 `overloaded`.
    pub async fn register(&self, registration: Registration) -> Result<User, Problem> {
        let name = checked_name(&registration.name)?;
        let (id, email) = (UserId::new(), checked_email(&registration.email)?);
        let user = NewUser { id, email, name, role: Role::Buyer, is_verified: false };
        let (user, _) = self.create(user, registration.password).await?;
        self.letterbox.wake();
        Ok(user)
    }

    /// Makes an operator and signs them in.
    ///
    /// # Errors
    /// 422 `invalid_body`, 409 `email_taken` also where a buyer has the address, 503 `overloaded`.
    pub async fn create_operator(&self, email: &str, password: Secret) -> Result<(UserId, String), Problem> {
        let (id, name) = (UserId::new(), "Operator".to_owned());
        let user = NewUser { id, email: checked_email(email)?, name, role: Role::Operator, is_verified: true };
        let (user, now) = self.create(user, password).await?;
        Ok((user.id, self.issue(user.id, user.role, now).0))
    }

    /// Stores a user whose address and name were checked. Gives the database's time as well.
    async fn create(&self, user: NewUser, password: Secret) -> Result<(User, Timestamp), Problem> {
        check_password(password.expose())?;
        let hash = self.passwords.hash(password).await?;
        let input = (user, hash, self.letterbox.clone());
        self.db
            .in_tx("accounts.register", input, |conn, (user, hash, letterbox)| {
                Box::pin(async move {
                    store::insert_users(conn, std::slice::from_ref(user), hash).await.map_err(
                        |problem| match problem.fault() {
                            Some(Fault::Duplicate) => Problem::new(&EMAIL_TAKEN),
                            _ => problem,
                        },
                    )?;
                    if !user.is_verified {
                        letterbox.post(conn, Request::Verification, user.id, user.id.0).await?;
                    }
                    let stored = store::find_user(conn, user.id).await?.ok_or_else(|| Problem::not_found("user"))?;
                    Ok((stored, db::now(conn).await?))
                })
            })
            .await
    }

    /// Makes `count` buyers with one password, for load tests, and signs each in.
    ///
    /// # Errors
    /// 422 `invalid_body`, or what the database fails with; those made until then stay.
    pub async fn create_many(&self, count: u32, password: &str) -> Result<Vec<(UserId, String)>, Problem> {
        check_password(password)?;
        let hash = self.passwords.hash(Secret::new(password)).await?;
        let mut made = Vec::with_capacity(count as usize);
        let mut left = count;
        while left > 0 {
            let batch = left.min(USERS_PER_INSERT);
            let users: Vec<NewUser> = (0..batch).map(|_| load_user()).collect();
            let ids: Vec<UserId> = users.iter().map(|user| user.id).collect();
            let now = self
                .db
                .in_tx("accounts.create_many", (users, hash.clone()), |conn, (users, hash)| {
                    Box::pin(async move {
                        store::insert_users(conn, users, hash).await?;
                        db::now(conn).await
                    })
                })
                .await?;
            made.extend(ids.into_iter().map(|id| (id, self.issue(id, Role::Buyer, now).0)));
            left -= batch;
        }
        Ok(made)
    }

    /// Signs a user in. An unknown address takes as long as a wrong password.
    ///
    /// # Errors
    /// 401 `bad_credentials`, 503 `overloaded`.
    pub async fn log_in(&self, email: &str, password: Secret) -> Result<SignedIn, Problem> {
        // No stored password is that long, whoever's it is: refused before anything is looked up.
        if password.expose().chars().count() > PASSWORD_CHARS_MAX {
            return Err(Problem::new(&BAD_CREDENTIALS));
        }
        let login = match checked_email(email) {
            Ok(email) => {
                self.db
                    .in_tx("accounts.find_login", email, |conn, email| {
                        Box::pin(store::find_login_for_update(conn, email))
                    })
                    .await?
            }
            Err(_) => None,
        };
        let stored = login.as_ref().map(|login| login.password_hash.clone());
        let is_right = self.passwords.verify(password, stored).await?;
        match login {
            Some(login) if is_right => {
                let user = login.user;
                let (access_token, expires_at) = self.issue(user.id, user.role, login.read_at);
                Ok(SignedIn { access_token: Secret::new(access_token), expires_at, user })
            }
            _ => Err(Problem::new(&BAD_CREDENTIALS)),
        }
    }

    /// A token for a new session that began at `issued_at`, and when it expires.
    fn issue(&self, user: UserId, role: Role, issued_at: Timestamp) -> (String, Timestamp) {
        let expires_at = issued_at.plus(self.session_life);
        let claims = Claims { session: SessionId::new(), user, role, issued_at, expires_at };
        (self.sealer.seal(&claims.encode()), expires_at)
    }

    /// Whose token this is. Takes no I/O.
    ///
    /// # Errors
    /// 401 `unauthenticated`; 503 `unavailable` until the revocations were read once.
    pub fn authenticate(&self, token: &str) -> Result<Session, Problem> {
        let refused = || Problem::new(&codes::UNAUTHENTICATED);
        let claims = self.sealer.open(token).and_then(|payload| Claims::decode(&payload)).ok_or_else(refused)?;
        // A shorter life holds for older tokens too, so that a revocation always outlives what it revokes.
        let expires_at = claims.expires_at.min(claims.issued_at.plus(self.session_life));
        if expires_at <= self.clock.now() {
            return Err(refused());
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if !known.is_complete {
            return Err(Problem::new(&codes::UNAVAILABLE));
        }
        if known.revocations.cover(&claims) {
            return Err(refused());
        }
        Ok(Session { expires_at, ..claims.session() })
    }

    /// Ends a session: here at once, elsewhere with the next refresh.
    ///
    /// # Errors
    /// What the database fails with; the session then goes on.
    pub async fn log_out(&self, session: Session) -> Result<(), Problem> {
        let revocation = self
            .db
            .in_tx("accounts.log_out", session, |conn, session| {
                Box::pin(store::insert_session_revocation(conn, session.id, session.user, session.expires_at))
            })
            .await?;
        self.add(&[revocation]);
        Ok(())
    }

    /// The signed-in user.
    ///
    /// # Errors
    /// 401 `unauthenticated` where the user was erased meanwhile.
    pub async fn get_me(&self, session: Session) -> Result<User, Problem> {
        let found =
            self.db.read("accounts.get_me", session.user, |conn, user| Box::pin(store::find_user(conn, *user))).await?;
        found.ok_or_else(|| Problem::new(&codes::UNAUTHENTICATED))
    }

    /// Erases the user's personal data, takes back mails and tokens that are on their way, and ends all their sessions.
    ///
    /// # Errors
    /// 401 `unauthenticated` where that was done before.
    pub async fn erase_me(&self, session: Session) -> Result<(), Problem> {
        let input = (session.user, self.session_life.as_secs(), self.letterbox.clone());
        let revocation = self
            .db
            .in_tx("accounts.erase", input, |conn, (user, session_secs, letterbox)| {
                Box::pin(async move {
                    store::proofs::delete_of_user(conn, *user).await?;
                    letterbox.forget(conn, *user).await?;
                    if !store::erase_user(conn, *user).await? {
                        return Err(Problem::new(&codes::UNAUTHENTICATED));
                    }
                    store::insert_user_revocation(conn, *user, *session_secs).await
                })
            })
            .await?;
        self.add(&[revocation]);
        Ok(())
    }

    /// Learns what other instances revoked: everything at the first call, the newest seconds at each further
    /// one. Called at least once before the instance takes requests, and then every second.
    ///
    /// # Errors
    /// What the database fails with; the next call then begins where this one did.
    pub async fn refresh_revocations(&self) -> Result<(), Problem> {
        let mut refreshed_at = self.refreshed_at.lock().await;
        let now = self.db.read("accounts.refresh_revocations", (), |conn, ()| Box::pin(db::now(conn))).await?;
        let epoch = Timestamp::from_millis(0).unwrap_or(now);
        let since = refreshed_at.map_or(epoch, |last| last.min(now).minus(OVERLAP));
        let mut after = (since, Uuid::nil());
        loop {
            let page = self
                .db
                .read("accounts.refresh_revocations", after, |conn, after| {
                    Box::pin(store::list_revocations(conn, *after, REVOCATIONS_PER_READ))
                })
                .await?;
            self.add(&page);
            match page.last() {
                Some(last) if page.len() >= REVOCATIONS_PER_READ as usize => after = (last.created_at, last.id),
                _ => break,
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.is_complete = true;
        known.revocations.prune(self.clock.now());
        *refreshed_at = Some(now);
        Ok(())
    }

    pub(super) fn add(&self, revocations: &[Revocation]) {
        if revocations.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for revocation in revocations {
            known.revocations.add(revocation);
        }
    }

    /// Forgets revocations of tokens that have expired, at most `limit` of them. Returns how many.
    ///
    /// # Errors
    /// What the database fails with.
    pub async fn delete_expired_revocations(&self, limit: u32) -> Result<u64, Problem> {
        self.db
            .in_tx("accounts.delete_expired_revocations", limit, |conn, limit| {
                Box::pin(store::delete_expired_revocations(conn, *limit))
            })
            .await
    }
}

fn load_user() -> NewUser {
    let id = UserId::new();
    NewUser {
        id,
        email: format!("load-{id}@example.com"),
        name: "Load test".to_owned(),
        role: Role::Buyer,
        is_verified: true,
    }
}
