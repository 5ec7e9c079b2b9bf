//! Tokens in mails: whoever has one reads the mail of the address. They verify the address, or set a new password.
//!
//! A token is made when its mail is sent, so that it is written down nowhere but there: the database has its hash. It is used by
//! one statement, which of several callers one wins.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use ring::digest;
use uuid::Uuid;

use super::domain::{EMAIL_UNVERIFIED, LINK_EXPIRED, Session, User, UserId, check_password, checked_email};
use super::ports::Request;
use super::service::Accounts;
use super::store;
use super::store::proofs::Hash;
use crate::platform::config::Secret;
use crate::platform::db::{Conn, Db};
use crate::platform::error::{Problem, codes};

/// Tokens of one kind made for one user within an hour: a mail that cannot be sent gets a new one with each try.
const PER_HOUR_MAX: i64 = 10;
/// Characters of a token: 32 bytes as base64url.
pub const TOKEN_CHARS: usize = 43;

impl Request {
    /// Its number in the rows of tokens.
    const fn number(self) -> u8 {
        match self {
            Self::Verification => 0,
            Self::PasswordReset => 1,
        }
    }
}

/// A new token, and to whom it is sent.
#[derive(Debug)]
pub struct Proof {
    /// To whom.
    pub user: User,
    /// The token.
    pub token: Secret,
}

struct Issuing {
    user: UserId,
    request: Request,
    hash: Hash,
    life: Duration,
}

struct Resetting {
    hash: Hash,
    password_hash: String,
    session_secs: u64,
}

impl Accounts {
    /// A token for the mail that was asked for; none where there is nobody to send it to, or nothing to verify, or where too many
    /// were made of late.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn issue_proof(&self, user: UserId, request: Request) -> Result<Option<Proof>, Problem> {
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let life = match request {
            Request::Verification => self.verification_life,
            Request::PasswordReset => self.reset_life,
        };
        let issuing = Issuing { user, request, hash: hash_of(&bytes), life };
        let issue = self.db.in_tx("accounts.issue_proof", issuing, |conn, issuing| Box::pin(issuing.run(conn)));
        let token = Secret::new(URL_SAFE_NO_PAD.encode(bytes));
        Ok(issue.await?.map(|user| Proof { user, token }))
    }

    /// To whom a mail about something else goes; none where they were erased.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn find_recipient(&self, user: UserId) -> Result<Option<User>, Problem> {
        self.db.read("accounts.find_recipient", user, |conn, user| Box::pin(store::find_user(conn, *user))).await
    }

    /// Asks for another mail with which the signed-in user can verify their address. Nothing where it is verified.
    ///
    /// # Errors
    /// 401 `unauthenticated` where the user was erased meanwhile.
    pub async fn ask_verification(&self, session: Session) -> Result<(), Problem> {
        let input = (self.letterbox.clone(), session.user, Uuid::now_v7());
        let ask = self.db.in_tx("accounts.ask_verification", input, |conn, (letterbox, user, reference)| {
            Box::pin(async move {
                let found = store::find_user(conn, *user).await?;
                let found = found.ok_or_else(|| Problem::new(&codes::UNAUTHENTICATED))?;
                if found.verified_at.is_some() {
                    return Ok(());
                }
                letterbox.post(conn, Request::Verification, *user, *reference).await
            })
        });
        ask.await?;
        self.letterbox.wake();
        Ok(())
    }

    /// Verifies the address to which this token was sent. A repeat of what took effect is fine.
    ///
    /// # Errors
    /// 410 `link_expired`.
    pub async fn verify(&self, token: &Secret) -> Result<(), Problem> {
        let hash = read(token)?;
        let verification = self.db.in_tx("accounts.verify", hash, |conn, hash| {
            Box::pin(async move {
                let kind = Request::Verification.number();
                let is_first = store::proofs::use_up(conn, hash, kind).await?;
                let (user, _) = store::proofs::find(conn, hash, kind).await?.ok_or_else(expired)?;
                if is_first && !store::verify_user(conn, user).await? {
                    return Err(expired());
                }
                Ok(())
            })
        });
        verification.await
    }

    /// Asks for a mail with which the password of this address can be set anew. Takes the same statements whether or not anybody
    /// has the address: a mail to nobody is asked for, too, and found to be void when it is to be sent.
    ///
    /// # Errors
    /// 422 `invalid_body` where that is no address.
    pub async fn ask_reset(&self, email: &str) -> Result<(), Problem> {
        let input = (self.letterbox.clone(), checked_email(email)?, Uuid::now_v7());
        let ask = self.db.in_tx("accounts.ask_reset", input, |conn, (letterbox, email, reference)| {
            Box::pin(async move {
                let user = store::find_id(conn, email).await?.unwrap_or(UserId(*reference));
                letterbox.post(conn, Request::PasswordReset, user, *reference).await
            })
        });
        ask.await?;
        self.letterbox.wake();
        Ok(())
    }

    /// Sets a new password with a token, once, and ends all sessions of its user.
    ///
    /// # Errors
    /// 422 `invalid_body`, 410 `link_expired`, 503 `overloaded`.
    pub async fn reset_password(&self, token: &Secret, password: Secret) -> Result<(), Problem> {
        check_password(password.expose())?;
        let hash = read(token)?;
        // Whoever makes tokens up costs no hash of a password.
        let found = self.db.read("accounts.find_reset", hash, |conn, hash| {
            Box::pin(store::proofs::find(conn, hash, Request::PasswordReset.number()))
        });
        if found.await?.is_none_or(|(_, is_used)| is_used) {
            return Err(expired());
        }
        let password_hash = self.passwords.hash(password).await?;
        let resetting = Resetting { hash, password_hash, session_secs: self.session_life.as_secs() };
        let revocation = self
            .db
            .in_tx("accounts.reset_password", resetting, |conn, resetting| Box::pin(resetting.run(conn)))
            .await?;
        self.add(&[revocation]);
        Ok(())
    }

    /// Refuses a buyer whose address is not verified, where buying needs that.
    ///
    /// # Errors
    /// 403 `email_unverified`; 401 `unauthenticated` where the user was erased meanwhile.
    pub async fn check_verified(&self, user: UserId) -> Result<(), Problem> {
        if !self.require_verified || self.verified.contains_key(&user) {
            return Ok(());
        }
        let found = self.find_recipient(user).await?.ok_or_else(|| Problem::new(&codes::UNAUTHENTICATED))?;
        if found.verified_at.is_none() {
            return Err(Problem::new(&EMAIL_UNVERIFIED));
        }
        self.verified.insert(user, ());
        Ok(())
    }

    /// Forgets tokens that have expired, at most `limit` of them. Returns how many.
    ///
    /// # Errors
    /// What the database fails with.
    pub async fn delete_expired_proofs(&self, limit: u32) -> Result<u64, Problem> {
        let db: &Db = &self.db;
        db.in_tx("accounts.delete_expired_proofs", limit, |conn, limit| {
            Box::pin(store::proofs::delete_expired(conn, *limit))
        })
        .await
    }
}

impl Issuing {
    async fn run(&self, conn: &mut Conn) -> Result<Option<User>, Problem> {
        // Locked, so that mails that are sent at the same time are counted.
        let Some(user) = store::find_user_for_update(conn, self.user).await? else { return Ok(None) };
        let kind = self.request.number();
        let is_needless = self.request == Request::Verification && user.verified_at.is_some();
        if is_needless || store::proofs::count_recent(conn, self.user, kind).await? >= PER_HOUR_MAX {
            return Ok(None);
        }
        store::proofs::insert(conn, &self.hash, self.user, kind, self.life.as_secs()).await?;
        Ok(Some(user))
    }
}

impl Resetting {
    async fn run(&self, conn: &mut Conn) -> Result<super::domain::Revocation, Problem> {
        let kind = Request::PasswordReset.number();
        if !store::proofs::use_up(conn, &self.hash, kind).await? {
            return Err(expired());
        }
        let (user, _) = store::proofs::find(conn, &self.hash, kind).await?.ok_or_else(expired)?;
        store::proofs::delete_others(conn, user, kind, &self.hash).await?;
        if !store::set_password(conn, user, &self.password_hash).await? {
            return Err(expired());
        }
        store::insert_user_revocation(conn, user, self.session_secs).await
    }
}

fn expired() -> Problem {
    Problem::new(&LINK_EXPIRED)
}

fn hash_of(token: &[u8; 32]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    hash
}

/// The hash of a token as it came. What is no token at all was never ours.
fn read(token: &Secret) -> Result<Hash, Problem> {
    if token.expose().len() != TOKEN_CHARS {
        return Err(expired());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token.expose()).ok();
    let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.as_ref().map(hash_of).ok_or_else(expired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_in_its_one_form() {
        let text = URL_SAFE_NO_PAD.encode([7_u8; 32]);
        assert_eq!(text.len(), TOKEN_CHARS);
        assert_eq!(read(&Secret::new(text.clone())).unwrap(), hash_of(&[7; 32]));
        for bad in [String::new(), text[1..].to_owned(), format!("{text}="), text.replace('B', "+"), "é".repeat(43)] {
            let refused = read(&Secret::new(bad.clone())).err();
            assert_eq!(refused.map(|problem| problem.code().code), Some("link_expired"), "{bad}");
        }
    }
}
