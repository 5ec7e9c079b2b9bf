//! The house rules, as tests that read the tree: style that is not checked does not last.
//!
//! Each rule is a function from the tree to complaints, `file:line what`. It has two tests: the project obeys
//! it, and files made up for the purpose do not, which shows that the rule can fail at all. The rules
//! read text, not types: they catch what people do, not what somebody could hide.
//!
//! | file | rules |
//! | --- | --- |
//! | `direction` | imports between features and inside a feature |
//! | `borders` | which files may use axum, sqlx, fred; the wall clock; beginning transactions |
//! | `tables` | one owner per table; statements that lock; no effects inside transactions |
//! | `scripts` | one owner per Lua script and key prefix; the header of a script |
//! | `sizes` | lines of a file, a function, a handler |
//! | `words` | nothing unfinished or silenced; headers; names; nothing private |
//! | `migrations` | one explained statement a file, numbered once; released ones never change |
//! | `settings` | settings are explained and read; metrics are explained and named by convention |
//! | `docs` | links and `make` commands in documents |
//! | `events` | every event that is recorded can be subscribed, and is described in docs/events.md |

#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/tree.rs"]
mod tree;

#[path = "tidy/borders.rs"]
mod borders;
#[path = "tidy/direction.rs"]
mod direction;
#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/events.rs"]
mod events;
#[path = "tidy/migrations.rs"]
mod migrations;
#[path = "tidy/scripts.rs"]
mod scripts;
#[path = "tidy/settings.rs"]
mod settings;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/tables.rs"]
mod tables;
#[path = "tidy/words.rs"]
mod words;
