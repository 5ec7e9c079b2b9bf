//! Whether the server answers, asked over a connection of its own: the pool's may all be waiting for a row's lock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, MySqlConnection};
use tokio::sync::Mutex;

/// Longest wait for the server's answer, connecting included.
const ANSWER_MAX: Duration = Duration::from_millis(1500);
/// How long an answer counts for whoever asks next.
const KEEP: Duration = Duration::from_millis(500);

/// One connection and the last answer over it. Clones share both; who asks while another asks waits for that answer.
#[derive(Clone)]
pub(super) struct Probe {
    options: MySqlConnectOptions,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    conn: Option<MySqlConnection>,
    last: Option<(Instant, bool)>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

impl Probe {
    pub(super) fn new(options: MySqlConnectOptions) -> Self {
        Self { options, inner: Arc::default() }
    }

    pub(super) async fn ask(&self) -> bool {
        let mut inner = self.inner.lock().await;
        if let Some((at, answers)) = inner.last
            && at.elapsed() < KEEP
        {
            return answers;
        }
        // Taken out, so that a caller who leaves in the middle of an exchange takes the connection along.
        let conn = inner.conn.take();
        let asked = async {
            let mut conn = match conn {
                Some(conn) => conn,
                None => self.options.connect().await?,
            };
            conn.ping().await.map(|()| conn)
        };
        inner.conn = match tokio::time::timeout(ANSWER_MAX, asked).await {
            Ok(Ok(conn)) => Some(conn),
            Ok(Err(_)) | Err(_) => None,
        };
        let answers = inner.conn.is_some();
        inner.last = Some((Instant::now(), answers));
        answers
    }
}
