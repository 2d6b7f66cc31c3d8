use std::time::Duration;

use std::ops::Deref;
use std::time::Instant;

use futures_util::future::{join_all, try_join_all};
use tempfile::TempDir;

use super::*;
use writ_store::repair::Salvage;
use writ_store::{Settings, repair, testing};

const ISSUED: u64 = 1_790_000_000;
const DAY: u64 = 86_400;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_epoch(ISSUED + seconds)
}

struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn settings(&self) -> Settings {
        Settings::Sled { path: self.0.path().join("data") }
    }

    async fn ledger(&self) -> Opened {
        let store = Store::open(&self.settings()).await.unwrap();
        Opened { ledger: Ledger::open(store.clone()).await.unwrap(), store }
    }

    /// The ledger after a repair at that second, without any proof of completeness.
    async fn distrusted(&self, seconds: u64) -> Opened {
        let remains = repair::survey(&self.settings()).unwrap().without_proof();
        repair::replace(&self.settings(), &remains.salvage(None, &[], at(seconds))).unwrap();
        self.ledger().await
    }
}

/// A ledger with its store.
struct Opened {
    ledger: Ledger,
    store: Store,
}

impl Deref for Opened {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl Opened {
    async fn holds(&self, table: &str, key: [u8; 32]) -> bool {
        let name = [table.as_bytes(), b"/", &key].concat();
        testing::read(&self.store, &name).await.unwrap().is_some()
    }

    /// Tokens on record, and counts of uses.
    fn left(&self) -> (u64, u64) {
        let counts = self.records.counts();
        (counts.tokens, counts.uses)
    }
}

async fn restarted(ledger: Opened, installed: &Installed) -> Opened {
    ledger.store.close().await;
    installed.ledger().await
}

/// An entry for the token number `number` of transaction `t`.
fn token(number: u8, keep_until: Timestamp) -> Entry<'static> {
    let token = Redeemable { signed_part: [number; 32], txn: "t", iat: Timestamp::default(), keep_until };
    Entry { token: Some(token), single_use: None }
}

/// The token number `number` of transaction `t`, on record.
async fn recorded(ledger: &Ledger, number: u8) {
    ledger.record(token(number, at(90 * DAY)), at(0)).await.unwrap();
}

/// An entry for a single-use identifier created at that second.
fn once(id: u8, made: u64) -> Entry<'static> {
    let single_use = SingleUse { id: [id; 32], made: at(made), keep_until: at(made + 310) };
    Entry { token: None, single_use: Some(single_use) }
}

/// A-066
#[tokio::test]
async fn what_can_be_used_once_is_used_once_across_restarts() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    let outcomes = join_all((0..8).map(|_| ledger.record(once(1, 0), at(1)))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(LedgerError::Replayed))));
    let ledger = restarted(ledger, &installed).await;
    assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
    ledger.record(once(2, 0), at(2)).await.unwrap();
}

/// A-129: the last event is not enough if an operator sets it back in two steps.
#[tokio::test]
async fn identifiers_dropped_under_a_wrong_clock_are_not_used_again() {
    const HOUR: u64 = 3600;
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    ledger.record(once(1, 0), at(1)).await.unwrap();
    ledger.expire(at(0), at(60 * HOUR)).await.unwrap();
    assert!(!ledger.holds("single", [1; 32]).await);
    ledger.trust_clock(at(30 * HOUR)).await.unwrap();
    ledger.trust_clock(at(2)).await.unwrap();
    assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
    ledger.record(once(2, 3), at(3)).await.unwrap();
}

/// All or nothing: a token with a used identifier is not recorded either.
#[tokio::test]
async fn nothing_is_recorded_beside_a_replay() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    ledger.record(once(1, 0), at(1)).await.unwrap();
    let both = Entry { single_use: once(1, 0).single_use, ..token(2, at(DAY)) };
    assert!(matches!(ledger.record(both, at(1)).await, Err(LedgerError::Replayed)));
    assert!(!ledger.holds("tokens", [2; 32]).await);
    ledger.record(Entry { single_use: once(3, 0).single_use, ..token(2, at(DAY)) }, at(1)).await.unwrap();
    assert!(ledger.holds("tokens", [2; 32]).await);
}

/// After a repair it is not known what was used before it.
#[tokio::test]
async fn identifiers_created_before_a_repair_are_refused() {
    let installed = Installed::new();
    installed.ledger().await.store.close().await;
    let ledger = installed.distrusted(100).await;
    assert!(matches!(ledger.record(once(1, 100), at(101)).await, Err(LedgerError::Replayed)));
    ledger.record(once(1, 101), at(101)).await.unwrap();
}

/// A-108, A-129: kept until it has expired anyway, and for two more days.
#[tokio::test]
async fn what_was_used_is_remembered_for_longer_than_it_could_be_used() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    ledger.record(once(1, 0), at(1)).await.unwrap();
    ledger.expire(at(0), at(310 + 2 * DAY)).await.unwrap();
    assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
    ledger.expire(at(0), at(311 + 2 * DAY)).await.unwrap();
    assert!(!ledger.holds("single", [1; 32]).await);
}

fn grant(client: &str, token: u8, max_uses: u32) -> Permit {
    Grant::redeeming(client, OwnToken::expired("t", token, ISSUED), max_uses, true).into()
}

/// The number of the use and whether it was free; the lifetime is a minute.
async fn spent(ledger: &Ledger, grant: &Permit, now: Timestamp) -> Option<(u32, bool)> {
    match ledger.spend(grant, now).await {
        Ok(term) => {
            let spent = term.spent.unwrap();
            assert_eq!(term.exp.since(term.iat), Duration::from_secs(60));
            assert!(spent.retry || term.iat == now);
            Some((spent.use_number, spent.retry))
        }
        Err(LedgerError::Exhausted) => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn issuing_counts_nothing_and_ends_with_the_subject_token() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    let grant = Grant::issuing("gateway", "u-1", "a", Some(at(30))).into();
    assert_eq!(ledger.spend(&grant, at(0)).await.unwrap(), Term { iat: at(0), exp: at(30), spent: None });
    assert_eq!(ledger.records.counts().uses, 0);
}

/// A-097, A-101: free while the token of the use lives, counted after, refused when all are spent.
#[tokio::test]
async fn the_last_use_is_repeated_until_its_token_ends() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    let grant = grant("job", 1, 2);
    let first = ledger.spend(&grant, at(100)).await.unwrap();
    let again = ledger.spend(&grant, at(159)).await.unwrap();
    assert_eq!((again.iat, again.exp), (first.iat, first.exp));
    assert_eq!(again.spent, Some(Spent { use_number: 1, retry: true }));
    let ledger = restarted(ledger, &installed).await;
    assert_eq!(spent(&ledger, &grant, at(159)).await, Some((1, true)));
    assert_eq!(spent(&ledger, &grant, at(160)).await, Some((2, false)));
    assert_eq!(spent(&ledger, &grant, at(219)).await, Some((2, true)));
    assert_eq!(spent(&ledger, &grant, at(220)).await, None);
}

/// CONTRACT 3.5: a use by another client, or of another token of the transaction, ends the free retry.
#[tokio::test]
async fn only_the_last_use_is_repeated() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    recorded(&ledger, 2).await;
    assert_eq!(spent(&ledger, &grant("job", 1, 4), at(100)).await, Some((1, false)));
    assert_eq!(spent(&ledger, &grant("other", 1, 4), at(101)).await, Some((2, false)));
    assert_eq!(spent(&ledger, &grant("job", 1, 4), at(102)).await, Some((3, false)));
    assert_eq!(spent(&ledger, &grant("job", 2, 4), at(103)).await, Some((4, false)));
    assert_eq!(spent(&ledger, &grant("job", 1, 4), at(104)).await, None);
    assert_eq!(spent(&ledger, &grant("job", 2, 4), at(105)).await, Some((4, true)));
}

/// A-098, R-DELAY-12
#[tokio::test]
async fn uses_are_counted_by_transaction_and_purpose() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    let mut other_purpose = OwnToken::expired("t", 1, ISSUED);
    other_purpose.claims_mut().scope = "account.export".parse().unwrap();
    let one = |original| Permit::from(Grant::redeeming("job", original, 1, false));
    assert_eq!(spent(&ledger, &one(OwnToken::expired("t", 1, ISSUED)), at(100)).await, Some((1, false)));
    assert_eq!(spent(&ledger, &one(OwnToken::expired("t", 2, ISSUED)), at(100)).await, None);
    assert_eq!(spent(&ledger, &one(OwnToken::expired("u", 3, ISSUED)), at(100)).await, Some((1, false)));
    assert_eq!(spent(&ledger, &one(other_purpose), at(100)).await, Some((1, false)));
}

/// A-108
#[tokio::test]
async fn a_lowered_limit_holds_at_once_and_a_raised_one_counts_old_uses() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    assert_eq!(spent(&ledger, &grant("job", 1, 2), at(100)).await, Some((1, false)));
    assert_eq!(spent(&ledger, &grant("job", 1, 1), at(120)).await, Some((1, true)), "nothing new is granted");
    assert_eq!(spent(&ledger, &grant("job", 1, 1), at(200)).await, None);
    assert_eq!(spent(&ledger, &grant("job", 1, 3), at(300)).await, Some((2, false)));
    assert_eq!(spent(&ledger, &grant("job", 1, 3), at(400)).await, Some((3, false)));
    assert_eq!(spent(&ledger, &grant("job", 1, 3), at(500)).await, None);
}

/// A-099, R-DELAY-13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_uses_are_exactly_as_many_as_allowed() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    let grants: Vec<_> = (0..64).map(|client| grant(&format!("job-{client}"), 1, 3)).collect();
    let spent = join_all(grants.iter().map(|grant| spent(&ledger, grant, at(100)))).await;
    let mut uses: Vec<_> = spent.into_iter().flatten().collect();
    uses.sort_unstable();
    assert_eq!(uses, [(1, false), (2, false), (3, false)]);

    let same = grant("job", 1, 4);
    let terms = join_all((0..64).map(|_| ledger.spend(&same, at(100)))).await;
    let free = terms.into_iter().filter(|term| term.as_ref().unwrap().spent.unwrap().retry).count();
    assert_eq!(free, 63);
}

/// R-DELAY-10
#[tokio::test]
async fn a_token_without_record_is_refused_unless_none_is_required() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    let refused = ledger.spend(&grant("job", 1, 1), at(100)).await;
    assert!(matches!(refused, Err(LedgerError::NotOnRecord)));
    let lenient = Permit::from(Grant::redeeming("job", OwnToken::expired("t", 1, ISSUED), 1, false));
    assert_eq!(spent(&ledger, &lenient, at(100)).await, Some((1, false)));
}

/// CONTRACT 6: `require_record = false` included.
#[tokio::test]
async fn after_a_repair_only_what_is_on_record_is_redeemed() {
    let installed = Installed::new();
    installed.ledger().await.store.close().await;
    let ledger = installed.distrusted(0).await;
    let lenient = |token, iat| Permit::from(Grant::redeeming("job", OwnToken::expired("t", token, iat), 9, false));
    assert!(matches!(ledger.spend(&lenient(1, ISSUED), at(100)).await, Err(LedgerError::NotOnRecord)));
    assert_eq!(spent(&ledger, &lenient(1, ISSUED + 1), at(100)).await, Some((1, false)));
    ledger.record(token(2, at(90 * DAY)), at(100)).await.unwrap();
    assert_eq!(spent(&ledger, &lenient(2, ISSUED), at(100)).await, Some((2, false)));
}

/// A store with two tokens on record, one of which has spent a use, and an identifier that was used; closed.
async fn used() -> Installed {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    recorded(&ledger, 2).await;
    assert_eq!(spent(&ledger, &grant("job", 1, 2), at(100)).await, Some((1, false)));
    ledger.record(once(1, 0), at(101)).await.unwrap();
    ledger.store.close().await;
    installed
}

impl Installed {
    /// Writes a meaningless record to a table, bypassing the seal.
    fn damage(&self, table: u8) {
        sled::open(self.settings().path()).unwrap().insert([table, 1], b"?").unwrap();
    }

    /// The result of a repair at that second, and the ledger made from it.
    async fn repaired(&self, seconds: u64) -> (Salvage, Opened) {
        let salvage = repair::survey(&self.settings()).unwrap().salvage(None, &[], at(seconds));
        repair::replace(&self.settings(), &salvage).unwrap();
        (salvage, self.ledger().await)
    }
}

fn kept(salvage: &Salvage) -> (usize, usize, usize) {
    (salvage.tokens.kept, salvage.uses.kept, salvage.single_use.kept)
}

#[tokio::test]
async fn a_repair_removes_nothing_from_complete_tables() {
    let tokens = 4;
    for harmed in [None, Some(tokens)] {
        let installed = used().await;
        harmed.inspect(|table| installed.damage(*table));
        let (salvaged, ledger) = installed.repaired(200).await;
        assert_eq!(kept(&salvaged), (2, 1, 1), "{harmed:?}");
        assert_eq!((salvaged.redemption_floor, salvaged.single_use_floor), (None, None));
        assert_eq!(spent(&ledger, &grant("job", 2, 2), at(201)).await, Some((2, false)));
        assert_eq!(spent(&ledger, &grant("other", 1, 2), at(202)).await, None);
        assert!(matches!(ledger.record(once(1, 0), at(203)).await, Err(LedgerError::Replayed)));
        ledger.record(once(2, 0), at(203)).await.unwrap();
    }
}

/// A count that may be too low grants nothing.
#[tokio::test]
async fn a_repair_that_may_have_lost_counts_refuses_all_that_was_issued_before() {
    let (meta, uses) = (1, 5);
    for harmed in [Some(meta), Some(uses), None] {
        let installed = used().await;
        match harmed {
            Some(table) => installed.damage(table),
            None => std::fs::remove_file(installed.settings().path().join("seal")).unwrap(),
        }
        let (salvaged, ledger) = installed.repaired(200).await;
        assert_eq!(
            (salvaged.tokens.kept, salvaged.uses.kept, salvaged.redemption_floor),
            (0, 1, Some(at(200))),
            "{harmed:?}"
        );
        for require_record in [true, false] {
            for iat in [ISSUED, ISSUED + 200] {
                let grant = Permit::from(Grant::redeeming("job", OwnToken::expired("t", 1, iat), 9, require_record));
                assert!(matches!(ledger.spend(&grant, at(300)).await, Err(LedgerError::NotOnRecord)));
            }
        }
        let later = Permit::from(Grant::redeeming("job", OwnToken::expired("t", 3, ISSUED + 201), 9, false));
        assert_eq!(spent(&ledger, &later, at(300)).await, Some((2, false)), "what is known to be counted counts");
    }
}

#[tokio::test]
async fn a_repair_that_may_have_lost_identifiers_refuses_all_that_were_made_before() {
    let single = 7;
    let installed = used().await;
    installed.damage(single);
    let (salvaged, ledger) = installed.repaired(200).await;
    assert_eq!((salvaged.redemption_floor, salvaged.single_use_floor), (None, Some(at(200))));
    for id in [1, 2] {
        assert!(matches!(ledger.record(once(id, 200), at(201)).await, Err(LedgerError::Replayed)));
    }
    ledger.record(once(2, 201), at(201)).await.unwrap();
    assert_eq!(spent(&ledger, &grant("job", 2, 2), at(202)).await, Some((2, false)));
}

/// What an earlier repair refuses stays refused, even if everything is complete or the clock is behind.
#[tokio::test]
async fn a_later_repair_does_not_forget_an_earlier_one() {
    let lenient = |iat| Permit::from(Grant::redeeming("job", OwnToken::expired("t", 1, iat), 9, false));
    let installed = used().await;
    std::fs::remove_file(installed.settings().path().join("seal")).unwrap();
    installed.repaired(200).await.1.store.close().await;
    let (again, ledger) = installed.repaired(300).await;
    assert_eq!(again.redemption_floor, None);
    assert!(matches!(ledger.spend(&lenient(ISSUED + 200), at(300)).await, Err(LedgerError::NotOnRecord)));
    ledger.store.close().await;
    std::fs::remove_file(installed.settings().path().join("seal")).unwrap();
    let (behind, _) = installed.repaired(0).await;
    assert_eq!(behind.redemption_floor, Some(at(300)));
}

/// A-129
#[tokio::test]
async fn a_repair_keeps_in_mind_by_which_time_things_were_dropped() {
    const HOUR: u64 = 3600;
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    ledger.record(once(1, 0), at(1)).await.unwrap();
    ledger.expire(at(0), at(60 * HOUR)).await.unwrap();
    ledger.store.close().await;
    let (_, ledger) = installed.repaired(60 * HOUR).await;
    ledger.trust_clock(at(30 * HOUR)).await.unwrap();
    ledger.trust_clock(at(2)).await.unwrap();
    assert!(matches!(ledger.record(once(1, 0), at(2)).await, Err(LedgerError::Replayed)));
}

/// The tokens of a transaction share their uses, and the earlier ones are lost.
#[tokio::test]
async fn a_transaction_that_began_before_a_repair_is_not_redeemed_with_a_later_token() {
    let installed = Installed::new();
    installed.ledger().await.store.close().await;
    let ledger = installed.distrusted(100).await;
    let begun = |second| uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, ISSUED + second, 0));
    let later = |second| OwnToken::expired(&begun(second).to_string(), 1, ISSUED + 110);
    ledger.record(token(1, at(90 * DAY)), at(100)).await.unwrap();
    for require_record in [true, false] {
        let grant = |second| Permit::from(Grant::redeeming("job", later(second), 1, require_record));
        assert!(matches!(ledger.spend(&grant(99), at(200)).await, Err(LedgerError::NotOnRecord)));
        assert_eq!(spent(&ledger, &grant(100), at(200)).await, Some((1, false)));
    }
}

/// A-129, R-DELAY-11
#[tokio::test]
async fn a_clock_behind_the_last_event_is_refused_until_it_is_trusted() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    let behind = |seconds| at(0) - Duration::from_secs(seconds);
    assert!(ledger.check_clock(behind(30)).is_ok());
    assert!(matches!(ledger.check_clock(behind(31)), Err(LedgerError::ClockBehind)));
    assert!(matches!(ledger.spend(&grant("job", 1, 1), behind(31)).await, Err(LedgerError::ClockBehind)));
    let ledger = restarted(ledger, &installed).await;
    assert!(ledger.check_clock(behind(31)).is_err());
    ledger.trust_clock(behind(DAY)).await.unwrap();
    assert!(ledger.check_clock(behind(DAY)).is_ok());
    assert!(restarted(ledger, &installed).await.check_clock(behind(DAY)).is_ok());
}

/// Key changes are events too: the ledger neither ignores nor overwrites their times.
#[tokio::test]
async fn the_time_of_an_event_that_others_recorded_stands() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    let installation = writ_store::ring::Installation { id: "i".into(), trust_domain: "d.example".into() };
    let document = br#"{"version":1}"#.to_vec();
    let ring = writ_store::ring::RingRecords { installation, document, past: Vec::new() };
    let _ = ledger.store.ring().create(&ring, at(DAY)).await.unwrap();
    assert!(ledger.check_clock(at(100)).is_err());
    assert!(matches!(ledger.spend(&grant("job", 1, 1), at(100)).await, Err(LedgerError::ClockBehind)));
    assert!(matches!(ledger.record(token(2, at(DAY)), at(100)).await, Err(LedgerError::ClockBehind)));
    assert_eq!(ledger.left(), (1, 0));
    ledger.record(token(2, at(90 * DAY)), at(DAY - 20)).await.unwrap();
    assert_eq!(ledger.clock.last_event(), at(DAY));
}

/// A-108: a record's absence refuses, a count's would grant.
#[tokio::test]
async fn expiring_drops_only_what_can_decide_nothing() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    let grant = grant("job", 1, 1);
    assert_eq!(spent(&ledger, &grant, at(100)).await, Some((1, false)));
    let late = at(92 * DAY);
    ledger.expire(at(15 * 60), late).await.unwrap();
    assert_eq!(
        ledger.left(),
        (1, 1),
        "a clock that runs ahead for a day drops nothing, and the key may have signed more"
    );
    ledger.expire(at(0), late + Duration::from_secs(1)).await.unwrap();
    assert_eq!(ledger.left(), (0, 1));
    assert!(matches!(ledger.spend(&grant, late).await, Err(LedgerError::NotOnRecord)));
    ledger.expire(at(15 * 60 + 1), late + Duration::from_secs(1)).await.unwrap();
    assert_eq!(ledger.left(), (0, 0));
}

/// A-129: setting the clock back before a time at which records were dropped is detected.
#[tokio::test]
async fn expiring_something_is_an_event() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    ledger.expire(at(0), at(50 * DAY)).await.unwrap();
    assert!(ledger.check_clock(at(0)).is_ok(), "nothing went");
    ledger.expire(at(0), at(93 * DAY)).await.unwrap();
    assert_eq!(ledger.records.counts().tokens, 0);
    assert!(matches!(ledger.check_clock(at(93 * DAY - 31)), Err(LedgerError::ClockBehind)));
    assert_eq!(ledger.clock.last_event(), at(93 * DAY));
    let behind = ledger.expire(at(0), at(0)).await;
    assert!(matches!(behind, Err(LedgerError::ClockBehind)), "by a clock that is behind nothing is swept");
}

/// A-066, A-129: what was dropped under a wrong clock is not used a second time under the right one.
#[tokio::test]
async fn possibly_dropped_identifiers_are_refused_once_the_clock_is_trusted() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    ledger.record(once(1, 0), at(1)).await.unwrap();
    ledger.expire(at(0), at(4 * DAY)).await.unwrap();
    assert_eq!(ledger.records.counts().single_use, 0);
    ledger.trust_clock(at(5)).await.unwrap();
    let refuses = async |ledger: &Opened, new: u8| {
        assert!(matches!(ledger.record(once(1, 0), at(6)).await, Err(LedgerError::Replayed)));
        assert!(matches!(ledger.record(once(2, 5), at(6)).await, Err(LedgerError::Replayed)));
        ledger.record(once(new, 6), at(6)).await.unwrap();
    };
    refuses(&ledger, 3).await;
    refuses(&restarted(ledger, &installed).await, 4).await;
}

/// A clock that was ahead by less than the safety margin has dropped nothing that matters.
#[tokio::test]
async fn a_small_correction_of_the_clock_forgets_nothing() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    ledger.record(once(1, 0), at(DAY)).await.unwrap();
    ledger.trust_clock(at(5)).await.unwrap();
    ledger.record(once(2, 4), at(6)).await.unwrap();
    assert!(matches!(ledger.record(once(1, 0), at(6)).await, Err(LedgerError::Replayed)));
}

/// Records written in batches are dropped in batches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_keeps_pace_with_recording() {
    const COUNT: u16 = 3000;
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    let part = |number: u16| {
        let mut part = [0; 32];
        part[..2].copy_from_slice(&number.to_be_bytes());
        part
    };
    let entry = |number, days| {
        let token =
            Redeemable { signed_part: part(number), txn: "t", iat: Timestamp::default(), keep_until: at(days * DAY) };
        Entry { token: Some(token), single_use: None }
    };
    let started = Instant::now();
    for numbers in (0..COUNT).collect::<Vec<_>>().chunks(256) {
        try_join_all(numbers.iter().map(|number| ledger.record(entry(*number, 1), at(0)))).await.unwrap();
    }
    let recording = started.elapsed();
    ledger.record(entry(COUNT, 90), at(0)).await.unwrap();
    let started = Instant::now();
    ledger.expire(at(0), at(3 * DAY + 1)).await.unwrap();
    let dropping = started.elapsed();
    assert_eq!(ledger.records.counts().tokens, 1);
    assert!(ledger.holds("tokens", part(COUNT)).await);
    assert!(dropping < 4 * recording, "{COUNT} records came in {recording:?} and went in {dropping:?}");
}

/// The gauge is the number of records, whether or not callers waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_is_right_after_cancelled_requests() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    for number in 0..100 {
        let half = tokio::time::timeout(Duration::from_micros(50), ledger.record(token(number, at(1)), at(0)));
        let _ = half.await;
        recorded(&ledger, number / 2).await; // renews some
    }
    let there = {
        let records = testing::dump(&ledger.store).await.unwrap();
        records.keys().filter(|name| name.starts_with(b"tokens/")).count()
    };
    assert!(there >= 50);
    assert_eq!(ledger.records.counts().tokens, there as u64);
    ledger.expire(at(0), at(93 * DAY)).await.unwrap();
    assert_eq!(ledger.records.counts().tokens, 0);
}

#[tokio::test]
async fn records_are_counted_across_restarts() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    for number in 0..3 {
        recorded(&ledger, number).await;
    }
    assert_eq!(spent(&ledger, &grant("job", 1, 1), at(100)).await, Some((1, false)));
    let ledger = restarted(ledger, &installed).await;
    assert_eq!(ledger.left(), (3, 1));
}

#[tokio::test]
async fn a_closed_store_is_unavailable_and_nothing_is_granted() {
    let installed = Installed::new();
    let ledger = installed.ledger().await;
    recorded(&ledger, 1).await;
    ledger.store.clone().close().await;
    assert!(matches!(ledger.spend(&grant("job", 1, 1), at(100)).await, Err(LedgerError::Unavailable(_))));
    assert!(ledger.record(token(2, at(100)), at(100)).await.is_err());
    assert!(ledger.probe(at(200)).await.is_err());
}
