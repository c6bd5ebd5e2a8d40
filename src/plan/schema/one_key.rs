//! Lists of one-key maps below a stage: `rewards` and `tools`, written like stages: `- length: {min: 20}`.
//!
//! Read by hand for the same reason as stages: serde's enums lose the place of a fault inside them.
//! [`one_key!`](crate::one_key) makes the type.

/// Makes the type of a one-key map: its kinds, its body, and how both are read.
#[macro_export]
#[doc(hidden)]
macro_rules! one_key {
    ($(#[$doc:meta])* $name:ident, $body:ident, $kinds:ident, $label:literal: $($key:literal => $variant:ident($section:ty)),* $(,)?) => {
        /// What the key may be.
        pub const $kinds: [&str; [$($key),*].len()] = [$($key),*];

        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            /// The key.
            pub kind: &'static str,
            /// What it holds.
            pub body: $body,
        }

        /// The value of the one key.
        #[derive(Debug, Clone)]
        pub enum $body {
            $(#[doc = concat!("`", $key, "`.")] $variant(Box<$section>)),*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Read;
                impl<'de> serde::de::Visitor<'de> for Read {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("a map with one key, the ", $label, "'s kind"))
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        use serde::de::Error as _;
                        let Some(kind) = map.next_key::<String>()? else {
                            return Err(A::Error::custom(concat!($label, ": empty")));
                        };
                        let (kind, body) = match kind.as_str() {
                            $($key => ($key, $body::$variant(map.next_value::<Option<_>>()?.unwrap_or_default())),)*
                            _ => {
                                map.next_value::<serde::de::IgnoredAny>()?;
                                return Err(A::Error::custom(format!(concat!($label, ": unknown kind `{}`"), kind)));
                            }
                        };
                        if let Some(second) = map.next_key::<String>()? {
                            return Err(A::Error::custom(format!(concat!($label, ": second key `{}`"), second)));
                        }
                        Ok($name { kind, body })
                    }
                }
                deserializer.deserialize_map(Read)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let properties = serde_json::json!({$($key: generator.subschema_for::<$section>()),*});
                schemars::json_schema!({
                    "type": "object",
                    "description": concat!("A map with one key, the ", $label, "'s kind."),
                    "x-label": $label,
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": false,
                    "properties": properties
                })
            }
        }
    };
}
