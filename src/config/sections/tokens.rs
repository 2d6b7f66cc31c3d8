//! `[tokens]`: lifetimes and limits of all tokens.

use std::time::Duration;

use writ_core::claims;
use writ_core::lifetime::MAX_LIFETIME;
use writ_platform::clock::HumanDuration;

use crate::config::document::Section;

pub(crate) struct Tokens {
    pub(crate) lifetime: Duration,
    pub(crate) max_lifetime: Duration,
    pub(crate) clock_skew: Duration,
    pub(crate) include_iss: bool,
    pub(crate) jwks_max_age: Duration,
    pub(crate) max_replacements: u32,
    pub(crate) max_size: usize,
}

/// R-SUBJ-06
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2 * 60);

pub(crate) fn read(tokens: &mut Section<'_>) -> Tokens {
    let max_lifetime = tokens.or_default("max_lifetime", Section::duration);
    let lifetime = tokens.duration("lifetime");
    let read = Tokens {
        // A maximum below the default lifetime lowers that.
        lifetime: lifetime.unwrap_or_else(|| tokens.default("lifetime", Section::duration).min(max_lifetime)),
        max_lifetime,
        clock_skew: tokens.or_default("clock_skew", Section::duration_or_zero),
        include_iss: tokens.or_default("include_iss", Section::flag),
        jwks_max_age: tokens.or_default("jwks_max_age", Section::duration),
        max_replacements: tokens.or_default("max_replacements", |tokens, key| tokens.integer(key, 0..=1_000)),
        max_size: tokens.or_default("max_size", |tokens, key| tokens.integer(key, 1..=claims::LARGEST)) as usize,
    };
    if read.max_lifetime > MAX_LIFETIME {
        tokens.error("max_lifetime", format_args!("must be at most \"{}\"", HumanDuration(MAX_LIFETIME)));
    }
    if read.lifetime > read.max_lifetime {
        tokens.error("lifetime", "must not be longer than max_lifetime");
    }
    if read.clock_skew > MAX_CLOCK_SKEW {
        tokens.error("clock_skew", format_args!("must be at most \"{}\"", HumanDuration(MAX_CLOCK_SKEW)));
    }
    read
}
