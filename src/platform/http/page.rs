//! Lists: `?limit=&cursor=` in, `{"items", "next_cursor"}` out. A cursor is the key of the last item
//! shown, so pages stay stable while rows are added.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::body::Params;
use crate::platform::error::Problem;

/// How many items a page has where the client does not say.
pub const LIMIT: u32 = 20;
/// Most items of a page.
pub const LIMIT_MAX: u32 = 100;

#[derive(Deserialize)]
struct Raw {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// What the client asks to see. `C` is the list's key.
#[derive(Clone, Debug)]
pub struct PageParams<C> {
    /// How many items, 1 to 100.
    pub limit: u32,
    /// The key after which the page begins.
    pub after: Option<C>,
}

impl<C: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for PageParams<C> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Params(raw) = Params::<Raw>::from_request_parts(parts, state).await?;
        let limit = raw.limit.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::invalid_parameter("limit", format!("from 1 to {LIMIT_MAX}")));
        }
        let refuse = || Problem::invalid_parameter("cursor", "not a cursor of this list");
        let after = match raw.cursor {
            None => None,
            Some(text) => {
                let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse())?;
                Some(serde_json::from_slice(&bytes).map_err(|_| refuse())?)
            }
        };
        Ok(Self { limit, after })
    }
}

impl<C> PageParams<C> {
    /// What a client asks for that names neither limit nor cursor.
    #[must_use]
    pub const fn first() -> Self {
        Self { limit: LIMIT, after: None }
    }

    /// How many rows to ask the store for: one more than shown tells whether there is a next page.
    #[must_use]
    pub const fn fetch(&self) -> u32 {
        self.limit + 1
    }
}

fn cursor<C: Serialize>(key: &C) -> Option<String> {
    serde_json::to_vec(key).ok().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// One page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Where the next page begins, or null at the end.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of the [`PageParams::fetch`] rows read; `key` tells an item's cursor.
    #[must_use]
    pub fn of<C: Serialize>(mut rows: Vec<T>, params: &PageParams<C>, key: impl Fn(&T) -> C) -> Self {
        let limit = params.limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).and_then(|item| cursor(&key(item)));
        Self { items: rows, next_cursor }
    }

    /// A page for which not enough was found among the rows up to `key`: the next one goes on from there.
    #[must_use]
    pub fn broken_off<C: Serialize>(items: Vec<T>, key: &C) -> Self {
        Self { items, next_cursor: cursor(key) }
    }

    /// The same page with each item turned into another.
    #[must_use]
    pub fn map<U>(self, turn: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(turn).collect(), next_cursor: self.next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_the_rows_end() {
        let params = PageParams::<u32> { limit: 2, after: None };
        let page = Page::of(vec![1_u32, 2, 3], &params, |n| *n);
        assert_eq!(page.items, [1, 2]);
        let next = URL_SAFE_NO_PAD.decode(page.next_cursor.unwrap()).unwrap();
        assert_eq!(next, b"2");
        assert!(Page::of(vec![1_u32, 2], &params, |n| *n).next_cursor.is_none());
    }

    async fn asked(query: &str) -> Result<PageParams<uuid::Uuid>, Problem> {
        let request = axum::http::Request::get(format!("/?{query}")).body(()).unwrap();
        PageParams::from_request_parts(&mut request.into_parts().0, &()).await
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn a_cursor_is_read_back(bytes in proptest::array::uniform16(proptest::num::u8::ANY)) {
            let id = uuid::Uuid::from_bytes(bytes);
            let read = futures::executor::block_on(asked(&format!("cursor={}", cursor(&id).unwrap())));
            proptest::prop_assert_eq!(read.unwrap().after, Some(id));
        }

        #[test]
        fn any_other_text_is_refused_as_a_cursor(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60),
            almost in proptest::collection::vec(proptest::sample::select(vec!["I", "j", "A", "0", "-", "_", "=", "%22", "%00", "%ff"]), 0..60),
        ) {
            for text in [almost.concat(), URL_SAFE_NO_PAD.encode(&bytes)] {
                let refused = futures::executor::block_on(asked(&format!("cursor={text}"))).unwrap_err();
                proptest::prop_assert_eq!(refused.code().code, "invalid_parameter");
            }
        }

        #[test]
        fn a_limit_is_taken_within_its_bounds_only(limit in proptest::num::i64::ANY) {
            for limit in [limit, limit % 200] {
                let asked = futures::executor::block_on(asked(&format!("limit={limit}")));
                proptest::prop_assert_eq!(asked.is_ok(), (1..=i64::from(LIMIT_MAX)).contains(&limit), "{}", limit);
            }
        }
    }
}
