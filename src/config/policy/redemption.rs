//! `[purpose.redemption]`: the right to redeem expired tokens.

use writ_core::policy::Redemption;
use writ_platform::clock::HumanDuration;

use super::settings::Settings;
use crate::config::document::Section;

/// `[purpose.redemption]`; its problems have been reported.
pub(super) fn redemption(table: &mut Section<'_>, settings: &Settings) -> Redemption {
    table.require(&["issued_to", "max_age"]);
    let issued_to = table.list("issued_to", str::parse);
    let max_age = table.duration("max_age");
    let read = Redemption {
        min_age: table.duration_or_zero("min_age").unwrap_or_default(),
        max_age: max_age.unwrap_or_default(),
        max_uses: table.integer("max_uses", 1..=1_000_000).unwrap_or(1),
        require_record: table.flag("require_record").unwrap_or(true),
        issued_to: issued_to.unwrap_or_default(),
    };
    if read.issued_to.is_empty() && !table.has_error("issued_to") {
        table.gap("issued_to", "must name the clients whose tokens may be redeemed");
    }
    if max_age.is_some() && read.min_age > read.max_age {
        table.error("min_age", "must not be longer than max_age");
    }
    if read.max_age + settings.max_lifetime >= settings.retention {
        let least = HumanDuration(read.max_age + settings.max_lifetime);
        table.error(
            "max_age",
            format_args!(
                "is too long: keys.retention must be longer than max_age and tokens.max_lifetime, \"{least}\" together"
            ),
        );
    }
    if !read.require_record {
        table.warning(
            "require_record",
            "tokens that are not on record can be redeemed: anyone who obtains a past signing key can forge them",
        );
    }
    read
}
