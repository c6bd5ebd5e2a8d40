//! Declares the architecture's keys once: [`declare_config!`] makes of one list the resolved struct, the struct of what
//! is stated, and the steps between them. Next: `config`, which holds the list.

/// Of each key: its doc line, attributes of the stated field after `@` (ranges for recipes), its name as in upstream's
/// `config.json` (`also`: further names), its type, and the default, which may name the keys before it.
///
/// Makes `ModelConfig`, `MoeConfig` and `ModelOverrides` with `over`, `from_keys` and `fill`. An `optional` key has no
/// default: the model is without it.
macro_rules! declare_config {
    (
        keys { $(
            $(#[doc = $a_doc:expr])+ $(@$a_attr:tt)*
            $a:ident $(also [$($a_also:literal),+])?: $a_type:ty = $a_default:expr;
        )+ }
        optional { $($(#[doc = $b_doc:expr])+ $(@$b_attr:tt)* $b:ident: $b_type:ty;)+ }
        keys { $(
            $(#[doc = $c_doc:expr])+ $(@$c_attr:tt)*
            $c:ident $(also [$($c_also:literal),+])?: $c_type:ty = $c_default:expr;
        )+ }
        experts { $(
            $(#[doc = $e_doc:expr])+ $(@$e_attr:tt)*
            $e:ident $(also [$($e_also:literal),+])?: $e_type:ty = $e_default:expr;
        )+ }
    ) => {
        /// The architecture. Keys are those of upstream's `config.json`.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub struct ModelConfig {
            $($(#[doc = $a_doc])+ pub $a: $a_type,)+
            $($(#[doc = $b_doc])+ pub $b: Option<$b_type>,)+
            $($(#[doc = $c_doc])+ pub $c: $c_type,)+
            /// Experts; `None` for a dense model.
            pub moe: Option<MoeConfig>,
        }

        /// Mixture of experts.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub struct MoeConfig {
            $($(#[doc = $e_doc])+ pub $e: $e_type,)+
        }

        /// What a recipe, a preset or a `config.json` states; everything else follows by [`ModelOverrides::resolve`].
        #[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
        #[serde(default)]
        pub struct ModelOverrides {
            $(
                $(#[doc = $a_doc])+ $(#$a_attr)*
                $($(#[serde(alias = $a_also)])+ #[schemars(extend("x-aliases" = [$($a_also),+]))])?
                pub $a: Option<$a_type>,
            )+
            $($(#[doc = $b_doc])+ $(#$b_attr)* pub $b: Option<$b_type>,)+
            $(
                $(#[doc = $c_doc])+ $(#$c_attr)*
                $($(#[serde(alias = $c_also)])+ #[schemars(extend("x-aliases" = [$($c_also),+]))])?
                pub $c: Option<$c_type>,
            )+
            /// Whether the feed-forward is a mixture of experts (false).
            pub use_moe: Option<bool>,
            $(
                $(#[doc = $e_doc])+ $(#$e_attr)*
                $($(#[serde(alias = $e_also)])+ #[schemars(extend("x-aliases" = [$($e_also),+]))])?
                pub $e: Option<$e_type>,
            )+
        }

        impl ModelOverrides {
            /// `self` where it states something, else `base`.
            pub fn over(self, base: Self) -> Self {
                Self {
                    $($a: self.$a.or(base.$a),)+
                    $($b: self.$b.or(base.$b),)+
                    $($c: self.$c.or(base.$c),)+
                    use_moe: self.use_moe.or(base.use_moe),
                    $($e: self.$e.or(base.$e),)+
                }
            }

            /// The keys of a `config.json` whose meaning is the same everywhere; the optional ones are not among them.
            pub(super) fn from_keys(keys: &Keys<'_>) -> Result<Self> {
                Ok(Self {
                    $($a: keys.read(&[stringify!($a) $($(, $a_also)+)?])?,)+
                    $($c: keys.read(&[stringify!($c) $($(, $c_also)+)?])?,)+
                    use_moe: keys.read(&["use_moe"])?,
                    $($e: keys.read(&[stringify!($e) $($(, $e_also)+)?])?,)+
                    ..Self::default()
                })
            }

            /// Every key that is not stated gets its default, in the order of the list.
            #[allow(clippy::unnecessary_lazy_evaluations)]
            fn fill(self) -> ModelConfig {
                $(let $a: $a_type = self.$a.unwrap_or_else(|| $a_default);)+
                $(let $c: $c_type = self.$c.unwrap_or_else(|| $c_default);)+
                let moe = self.use_moe.unwrap_or(false).then(|| MoeConfig {
                    $($e: self.$e.unwrap_or_else(|| $e_default),)+
                });
                ModelConfig { $($a,)+ $($b: self.$b,)+ $($c,)+ moe }
            }
        }
    };
}

pub(super) use declare_config;
