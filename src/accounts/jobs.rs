//! What the scheduler runs for accounts.

use std::sync::Arc;

use super::service::Accounts;
use crate::platform::jobs::Work;

/// Name of the job that forgets expired revocations and tokens.
pub const PURGE: &str = "accounts.purge_revocations";
/// How often it is due, in seconds.
pub const PURGE_EVERY_SECS: u32 = 600;

const ROWS_PER_DELETE: u32 = 1000;
const DELETES_PER_RUN_MAX: u32 = 100;

/// Forgets revocations and tokens in mails that expired long ago; what one run leaves is for the next.
#[must_use]
pub fn purge(accounts: Arc<Accounts>) -> Work {
    Arc::new(move |_| {
        let accounts = accounts.clone();
        Box::pin(async move {
            for _ in 0..DELETES_PER_RUN_MAX {
                if accounts.delete_expired_revocations(ROWS_PER_DELETE).await? < u64::from(ROWS_PER_DELETE) {
                    break;
                }
            }
            for _ in 0..DELETES_PER_RUN_MAX {
                if accounts.delete_expired_proofs(ROWS_PER_DELETE).await? < u64::from(ROWS_PER_DELETE) {
                    break;
                }
            }
            Ok(())
        })
    })
}
