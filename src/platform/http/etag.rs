//! Ready bodies for public reads: bytes with an `ETag`, answered with 304 where the client has them.
//!
//! A body is packed at most once per coding, whatever the number of readers: small ones when the first client asks for
//! the coding, large ones on a thread that serves no requests ([`Cached::settled`], [`Cached::lasting`]) and never
//! by a request. What is not ready yet is sent in the next best form that is. The compressing layer leaves alone what
//! carries an `ETag`.
//!
//! The tag is a weak one and the same for all forms (RFC 9110, 8.8.1): a client that has the body in any coding has it.

use std::sync::{Arc, OnceLock, Weak};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use ring::digest;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::coding::{Coding, Effort, Taken};

mod stored;
use crate::platform::error::Problem;

/// Bodies up to so many bytes are not packed.
pub const PACK_ABOVE: usize = 1024;
/// Bodies up to so many bytes are packed where they are asked for: it takes less than a millisecond.
const INLINE_MAX: usize = 64 * 1024;

/// What `Warning` says of a body that may be out of date.
const STALE: &str = "110 - \"Response is Stale\"";

/// Brotli takes its time for large bodies, and nobody waits for it: one at a time.
static TURN: Semaphore = Semaphore::const_new(1);

/// A JSON body, encoded once. Cloning copies a reference.
#[derive(Clone, Debug)]
pub struct Cached(Arc<Forms>);

/// The same body in several codings; nothing in them where the form is not smaller.
#[derive(Debug)]
struct Forms {
    etag: HeaderValue,
    cache_control: &'static str,
    plain: Bytes,
    effort: Effort,
    brotli: OnceLock<Option<Bytes>>,
    gzip: OnceLock<Option<Bytes>>,
}

impl Forms {
    fn made(&self, coding: Coding) -> &OnceLock<Option<Bytes>> {
        match coding {
            Coding::Brotli => &self.brotli,
            Coding::Gzip => &self.gzip,
        }
    }

    fn is_worth_packing(&self) -> bool {
        self.plain.len() > PACK_ABOVE
    }

    /// Packs the body, unless that was done.
    fn pack(&self, coding: Coding) -> Option<&Bytes> {
        let made = self.made(coding).get_or_init(|| {
            let packed = coding.pack(&self.plain, self.effort)?;
            (packed.len() < self.bound(coding)).then_some(packed)
        });
        made.as_ref()
    }

    /// The form, where it is there or can be made at once.
    fn find(&self, coding: Coding) -> Option<&Bytes> {
        if !self.is_worth_packing() {
            None
        } else if self.plain.len() <= INLINE_MAX && self.effort == Effort::Quick {
            self.pack(coding)
        } else {
            self.made(coding).get()?.as_ref()
        }
    }

    /// What a form is kept below: of what lasts, brotli's below gzip's, which is made first.
    fn bound(&self, coding: Coding) -> usize {
        let next = match (coding, self.effort) {
            (Coding::Brotli, Effort::Lasting) => self.gzip.get().and_then(Option::as_ref),
            _ => None,
        };
        next.unwrap_or(&self.plain).len()
    }

    /// The bytes kept for a form, or the most that they may become.
    fn weight(&self, coding: Coding) -> usize {
        match self.made(coding).get() {
            Some(made) => made.as_ref().map_or(0, Bytes::len),
            None if !self.is_worth_packing() => 0,
            None => self.bound(coding),
        }
    }
}

impl Cached {
    /// Encodes `value`; `cache_control` is sent with it. For what changes often: it is packed quickly.
    ///
    /// # Errors
    /// Where the value cannot be written as JSON.
    pub fn json<T: Serialize>(value: &T, cache_control: &'static str) -> Result<Self, Problem> {
        Self::encode(value, None, cache_control, Effort::Quick)
    }

    /// The same with a tag of this content alone: for a body that also says when and by whom it was made.
    ///
    /// # Errors
    /// As [`Cached::json`].
    pub fn tagged<T: Serialize>(value: &T, content: &[&[u8]], cache_control: &'static str) -> Result<Self, Problem> {
        Self::encode(value, Some(content), cache_control, Effort::Quick)
    }

    /// The same as [`Cached::json`] for what is kept for hours and may be large: it is encoded and packed off the threads that serve requests.
    /// Its brotli form comes a moment later.
    ///
    /// # Errors
    /// As [`Cached::json`].
    pub async fn lasting<T>(value: T, cache_control: &'static str) -> Result<Self, Problem>
    where
        T: Serialize + Send + 'static,
    {
        let encoding = spawn_blocking(move || {
            let made = Self::encode(&value, None, cache_control, Effort::Lasting)?;
            if made.0.is_worth_packing() {
                made.0.pack(Coding::Gzip);
            }
            Ok::<_, Problem>(made)
        });
        let made = encoding.await.map_err(Problem::internal)??;
        if made.0.is_worth_packing() {
            tokio::spawn(pack_later(Arc::downgrade(&made.0)));
        }
        Ok(made)
    }

    /// Waits until a body that is too large to be packed while a client waits has its gzip form.
    pub async fn settled(self) -> Self {
        if self.0.plain.len() > INLINE_MAX {
            let forms = self.0.clone();
            // Without it the body is sent as it is.
            drop(spawn_blocking(move || drop(forms.pack(Coding::Gzip).cloned())).await);
        }
        self
    }

    fn encode<T: Serialize>(
        value: &T,
        content: Option<&[&[u8]]>,
        cache_control: &'static str,
        effort: Effort,
    ) -> Result<Self, Problem> {
        // Without the room that was not used.
        let plain = Bytes::from(serde_json::to_vec(value).map_err(Problem::internal)?.into_boxed_slice());
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in content.unwrap_or(&[&plain]) {
            hash.update(part);
        }
        let tag = format!("W/\"{}\"", hex::encode(&hash.finish().as_ref()[..12]));
        let etag = HeaderValue::from_str(&tag).map_err(Problem::internal)?;
        let (brotli, gzip) = (OnceLock::new(), OnceLock::new());
        Ok(Self(Arc::new(Forms { etag, cache_control, plain, effort, brotli, gzip })))
    }

    /// Bytes of memory, for caches that bound theirs: all forms, and of those that are not made yet the most that they may
    /// become.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.plain.len() + self.0.weight(Coding::Gzip) + self.0.weight(Coding::Brotli)
    }

    /// 200 with the body in the best ready form that the client takes, or 304 if its `If-None-Match` names it.
    #[must_use]
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let is_known = self.is_known_to(headers);
        let (coding, body) = if is_known { (None, Body::empty()) } else { self.form(headers) };
        let mut response = Response::new(body);
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let head = response.headers_mut();
        head.reserve(5);
        head.insert(header::ETAG, self.0.etag.clone());
        head.insert(header::CACHE_CONTROL, HeaderValue::from_static(self.0.cache_control));
        head.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if !is_known {
            head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(coding) = coding {
            head.insert(header::CONTENT_ENCODING, coding.value());
        }
        response
    }

    /// The same of a body that may be out of date: it says so, and how many seconds ago it was true (RFC 9111, 5.1; RFC 7234, 5.5.1).
    #[must_use]
    pub fn answer_stale(&self, headers: &HeaderMap, age_secs: u64) -> Response {
        let mut response = self.answer(headers);
        let head = response.headers_mut();
        head.insert(header::AGE, HeaderValue::from(age_secs));
        head.insert(header::WARNING, HeaderValue::from_static(STALE));
        // Nobody on the way keeps what may be wrong already.
        head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn form(&self, headers: &HeaderMap) -> (Option<Coding>, Body) {
        let (taken, forms) = (Taken::by(headers), &self.0);
        if let Some((coding, packed)) = taken.codings().find_map(|coding| Some((coding, forms.find(coding)?))) {
            return (Some(coding), Body::from(packed.clone()));
        }
        // Hardly anybody refuses plain bodies: small ones are packed for them alone.
        if !taken.is_plain_fine()
            && !forms.is_worth_packing()
            && let Some(coding) = taken.codings().next()
            && let Some(packed) = coding.pack(&forms.plain, Effort::Quick)
        {
            return (Some(coding), Body::from(packed));
        }
        (None, Body::from(forms.plain.clone()))
    }

    fn is_known_to(&self, headers: &HeaderMap) -> bool {
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mine = opaque(self.0.etag.to_str().unwrap_or_default());
        known.flat_map(|list| list.split(',')).map(str::trim).any(|tag| tag == "*" || opaque(tag) == mine)
    }
}

/// A ready body, and whether it must say how old it is.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The body.
    pub body: Cached,
    /// Set where it may be out of date: how many seconds ago it was true.
    pub stale_secs: Option<u64>,
}

impl Shown {
    /// As [`Cached::answer`], marked where it may be out of date.
    #[must_use]
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        match self.stale_secs {
            None => self.body.answer(headers),
            Some(age_secs) => self.body.answer_stale(headers, age_secs),
        }
    }
}

/// A tag without its mark: comparison is weak (RFC 9110, 13.1.2).
fn opaque(tag: &str) -> &str {
    tag.trim_start_matches("W/")
}

/// Packs the best form when its turn comes, if somebody still keeps the body then.
async fn pack_later(forms: Weak<Forms>) {
    let Ok(_turn) = TURN.acquire().await else { return };
    if let Some(forms) = forms.upgrade() {
        // Without it gzip is the best form.
        drop(spawn_blocking(move || drop(forms.pack(Coding::Brotli).cloned())).await);
    }
}

/// Whether the compressing layer may pack an answer: what carries an `ETag` comes from here, packed as the client likes it
/// best.
pub fn is_left_to_the_layer(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::ETAG)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn asking(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    async fn sent(body: &Cached, accepted: &str) -> (Option<String>, Bytes) {
        let response = body.answer(&asking(header::ACCEPT_ENCODING, accepted));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::VARY], "accept-encoding");
        let coding = response.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
        (coding, response.into_body().collect().await.unwrap().to_bytes())
    }

    fn text(len: usize) -> String {
        (0..).map(|n: u32| n.to_string()).flat_map(String::into_bytes).take(len).map(char::from).collect()
    }

    #[test]
    fn a_known_body_is_not_sent_again() {
        let body = Cached::json(&[1, 2, 3], "no-cache").unwrap();
        let first = body.answer(&HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        let bare = tag.strip_prefix("W/").expect("a weak tag").to_owned();
        for known in [tag, bare.clone(), format!("\"x\", {bare}"), "*".to_owned()] {
            let again = body.answer(&asking(header::IF_NONE_MATCH, &known));
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(again.headers().get(header::CONTENT_TYPE), None);
        }
        assert_eq!(body.answer(&asking(header::IF_NONE_MATCH, "\"x\"")).status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_body_is_packed_once_for_all_readers() {
        let value = text(20_000);
        let body = Cached::json(&value, "no-cache").unwrap();
        let plain = serde_json::to_vec(&value).unwrap();
        let (none, sent_plain) = sent(&body, "deflate").await;
        assert_eq!((none, &sent_plain[..]), (None, &plain[..]));
        for coding in ["gzip", "br"] {
            let (first, again) = (sent(&body, coding).await, sent(&body.clone(), coding).await);
            assert_eq!(first.0.as_deref(), Some(coding));
            assert!(first.1.len() < plain.len());
            assert_eq!(first.1.as_ptr(), again.1.as_ptr(), "{coding}: the same bytes, not equal ones");
        }
    }

    #[tokio::test]
    async fn large_bodies_are_never_packed_by_a_request() {
        let value = text(INLINE_MAX + 1);
        let body = Cached::json(&value, "no-cache").unwrap();
        assert_eq!(sent(&body, "br, gzip").await.0, None, "nothing is ready");
        assert_eq!(sent(&body.settled().await, "br, gzip").await.0.as_deref(), Some("gzip"));
        let lasting = Cached::lasting(value, "immutable").await.unwrap();
        let first = sent(&lasting, "gzip").await;
        assert_eq!(first.0.as_deref(), Some("gzip"));
        while lasting.0.brotli.get().is_none() {
            tokio::task::yield_now().await;
        }
        let (best, packed) = sent(&lasting, "br, gzip").await;
        assert_eq!(best.as_deref(), Some("br"));
        assert!(packed.len() < first.1.len());
    }

    #[tokio::test]
    async fn small_bodies_are_packed_for_who_takes_nothing_else_only() {
        let body = Cached::json(&text(PACK_ABOVE - 2), "no-cache").unwrap();
        assert_eq!(sent(&body, "br, gzip").await.0, None);
        assert_eq!(sent(&body, "gzip, identity;q=0").await.0.as_deref(), Some("gzip"));
        assert_eq!(
            sent(&Cached::json(&text(PACK_ABOVE - 1), "no-cache").unwrap(), "gzip").await.0.as_deref(),
            Some("gzip")
        );
    }

    #[tokio::test]
    async fn what_does_not_get_smaller_stays_as_it_is() {
        use rand::Rng as _;
        let noise: Vec<u64> = (0..8).map(|_| rand::rng().random()).collect();
        let body = Cached::json(&noise, "no-cache").unwrap();
        let forms = Forms {
            etag: HeaderValue::from_static("x"),
            cache_control: "",
            plain: body.0.plain.slice(..24),
            effort: Effort::Quick,
            brotli: OnceLock::new(),
            gzip: OnceLock::new(),
        };
        assert_eq!(forms.pack(Coding::Gzip), None, "a head and a sum are more than is won");
        assert_eq!(forms.weight(Coding::Gzip), 0);
    }

    #[tokio::test]
    async fn the_weight_is_never_less_than_what_is_kept() {
        let body = Cached::json(&text(20_000), "no-cache").unwrap();
        let kept = |forms: &Forms| {
            let made =
                [&forms.brotli, &forms.gzip].map(|form| form.get().and_then(Option::as_ref).map_or(0, Bytes::len));
            forms.plain.len() + made[0] + made[1]
        };
        let mut before = usize::MAX;
        for accepted in ["identity", "gzip", "br"] {
            sent(&body, accepted).await;
            assert!(body.weight() >= kept(&body.0) && body.weight() <= before, "{accepted}");
            before = body.weight();
        }
        assert_eq!(body.weight(), kept(&body.0), "all is made");
        let small = Cached::json(&[1], "no-cache").unwrap();
        assert_eq!(small.weight(), 3);
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn nothing_but_the_tag_or_a_star_is_known(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let body = Cached::json(&[1, 2, 3], "no-cache").unwrap();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let has_star = value.to_str().is_ok_and(|text| text.split(',').any(|tag| tag.trim() == "*"));
                let status = body.answer(&HeaderMap::from_iter([(header::IF_NONE_MATCH, value)])).status();
                proptest::prop_assert_eq!(status == StatusCode::NOT_MODIFIED, has_star);
            }
        }
    }
}
