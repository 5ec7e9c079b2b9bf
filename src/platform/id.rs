//! Identifiers: `UUIDv7`, one type per thing, so that a hold's id cannot be passed for a user's.

use uuid::Uuid;

/// Reads an id in its one documented form, with hyphens: other spellings of the same id would be other addresses.
///
/// # Errors
/// A sentence for the client.
pub fn parse(text: &str) -> Result<Uuid, &'static str> {
    let has_hyphens = text.len() == uuid::fmt::Hyphenated::LENGTH;
    Uuid::try_parse(text)
        .ok()
        .filter(|_| has_hyphens)
        .ok_or("expected a UUID such as 019abcde-0123-7abc-89ab-0123456789ab")
}

/// Declares id newtypes over [`uuid::Uuid`], stored as BINARY(16).
#[macro_export]
macro_rules! id_types {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, sqlx::Type, utoipa::ToSchema,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub uuid::Uuid);

        impl $name {
            /// A new id, ordered by time.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default id would suggest a constant")]
            pub fn new() -> Self {
                Self(uuid::Uuid::now_v7())
            }
        }

        impl $crate::platform::db::Literal for $name {
            fn write(&self, sql: &mut String) {
                self.0.write(sql);
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = &'static str;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::platform::id::parse(text).map(Self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_id_has_one_form() {
        let id = uuid::Uuid::now_v7();
        assert_eq!(super::parse(&id.to_string()), Ok(id));
        assert_eq!(super::parse(&id.to_string().to_uppercase()), Ok(id));
        for other in [id.simple().to_string(), id.braced().to_string(), id.urn().to_string(), String::new()] {
            assert!(super::parse(&other).is_err(), "{other}");
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn what_is_read_is_what_is_written(text in proptest::prelude::any::<String>(), digits in proptest::collection::vec(0_usize..17, 36)) {
            // Almost an id: digits, and hyphens here and there.
            let almost: String = digits.iter().map(|digit| char::from(b"0123456789abcdef-"[*digit])).collect();
            for text in [text, almost] {
                if let Ok(id) = super::parse(&text) {
                    proptest::prop_assert_eq!(id.to_string(), text.to_lowercase());
                }
            }
        }
    }
}
