//! Several instances over one database.

use std::fs;

use crate::database::Postgres;
use crate::delayed;
use crate::support::writ::Setup;

/// A purpose whose tokens are not on record.
const RENAME: &str = r#"
[[purpose]]
scope = "account.rename"
accept = ["client_credentials"]
lifetime = "1s"
"#;

/// The configurations of instances over these servers, with the tables in place; redeemed tokens live that long.
pub(crate) fn setups<const COUNT: usize>(servers: &Postgres, lifetime: &str) -> [Setup; COUNT] {
    let mut sealing_key = None;
    let setups = [(); COUNT].map(|()| {
        let setup = delayed::setup(lifetime, "1d", 1).client("renames", RENAME);
        let path = setup.path("certs/sealing.key");
        let key = sealing_key.get_or_insert_with(|| fs::read_to_string(&path).unwrap()).clone();
        setup.write("certs/sealing.key", &key);
        over(setup, servers)
    });
    let owner = servers.password_file("writ_owner").display().to_string();
    setups[0].run(&["store", "migrate", "--password-file", &owner]).exits(0);
    setups
}

/// The same configuration with its store on these servers.
pub(crate) fn over(setup: Setup, servers: &Postgres) -> Setup {
    setup
        .set("store.kind", "postgres")
        .set("store.url", servers.url("writ"))
        .set("store.password_file", servers.password_file("writ").display().to_string())
        .set("store.ca", servers.ca().display().to_string())
}
