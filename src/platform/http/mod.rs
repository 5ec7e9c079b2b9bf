//! HTTP without business words: the accept loop, the layers every request passes, and the extractors that
//! turn bad input into problems.

pub mod address;
pub mod body;
mod coding;
mod connection;
pub mod edge;
pub mod etag;
pub mod files;
mod intake;
mod io;
pub mod keyed;
mod link;
pub mod page;
pub mod request_id;
pub mod server;

pub use address::{ClientAddress, Networks, TrustedProxies};
pub use body::{Body, Headers, Id, Params};
pub use etag::{Cached, Shown};
pub use keyed::KeyedBody;
pub use page::{Page, PageParams};
