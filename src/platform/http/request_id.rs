//! The request's id: taken from the client if sane, else made, returned always, and known to whatever
//! the request runs in its own task.

use std::future::Future;
use std::sync::LazyLock;

use axum::http::HeaderMap;

use crate::platform::clock::Clock;

/// The header's name.
pub const HEADER: &str = "x-request-id";
const LEN_MAX: usize = 64;

/// The machine's own: ids are told apart by it, and nothing more.
static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::default);

tokio::task_local! {
    static CURRENT: String;
}

/// The client's id if it is short and plain, else a new one.
#[must_use]
pub fn choose(headers: &HeaderMap) -> String {
    let sane = |text: &&str| {
        !text.is_empty()
            && text.len() <= LEN_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let theirs = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(sane);
    theirs.map_or_else(make, str::to_owned)
}

/// A version 7 UUID. Ids that name things are made one after the other and by the system's random numbers, which costs a lock
/// and a system call; these need neither.
fn make() -> String {
    let millis = u64::try_from(CLOCK.now().millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid().to_string()
}

/// Runs `work` under this id.
pub async fn scope<F: Future>(id: String, work: F) -> F::Output {
    CURRENT.scope(id, work).await
}

/// The id of the request being answered, or `-` outside of one.
#[must_use]
pub fn current() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_else(|_| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_ids_are_taken_over() {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, "abc-1.2_3".parse().unwrap());
        assert_eq!(choose(&headers), "abc-1.2_3");
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            headers.insert(HEADER, bad.parse().unwrap());
            assert_ne!(choose(&headers), bad);
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn an_id_is_always_short_and_plain(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = axum::http::HeaderValue::from_bytes(&bytes) {
                headers.insert(HEADER, value);
            }
            let id = choose(&headers);
            proptest::prop_assert!((1..=LEN_MAX).contains(&id.len()));
            proptest::prop_assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
        }
    }
}
