//! The shared clock: the last event is the time of the database, as of the last heartbeat of any instance.

use std::sync::Arc;

use writ_platform::clock::{STEP_TOLERANCE, Timestamp};

use super::pool::{Pool, Query};
use super::signed;
use crate::StoreError;
use crate::clock::{EventOutcome, RETENTION_MARGIN};

const NO_LAST_EVENT: StoreError = StoreError::Unreadable("the time of the last event cannot be read");

#[derive(Debug, Clone)]
pub(crate) struct Clock {
    pool: Arc<Pool>,
}

impl Clock {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool }
    }

    pub(crate) fn last_event(&self) -> Timestamp {
        self.pool.health.last_event()
    }

    pub(crate) async fn record(&self, now: Timestamp) -> Result<EventOutcome, StoreError> {
        let text = &self.pool.connector.statements.record_event;
        let tolerance = i64::try_from(STEP_TOLERANCE.as_secs()).unwrap_or(0);
        let row = self.pool.row("record", Query::Text(text), &[&signed(now), &tolerance]).await?;
        let last_event: Option<i64> = row.try_get("last_event").map_err(|_| NO_LAST_EVENT)?;
        Ok(if last_event.is_some() { EventOutcome::Recorded } else { EventOutcome::ClockBehind })
    }

    /// The next heartbeat follows the database's clock again, so that must not be ahead.
    pub(crate) async fn trust(&self, now: Timestamp) -> Result<(), StoreError> {
        let text = &self.pool.connector.statements.trust;
        let margin = i64::try_from(RETENTION_MARGIN.as_secs()).unwrap_or(0);
        let row = self.pool.row("record", Query::Text(text), &[&signed(now), &margin]).await?;
        let time: i64 = row.try_get("database_time").map_err(|_| NO_LAST_EVENT)?;
        let time = Timestamp::from_epoch(u64::try_from(time).unwrap_or(0));
        self.pool.health.set_last_event(now);
        if crate::clock::is_behind(time, now) {
            let what = format!("the clock of the database reads {time}: correct it, and accept the time again");
            return Err(StoreError::Unavailable(what));
        }
        Ok(())
    }
}
