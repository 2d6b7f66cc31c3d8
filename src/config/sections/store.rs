//! `[store]`: where the records are.

use crate::config::document::Section;

pub(crate) fn read(store: &mut Section<'_>) -> writ_store::Settings {
    // The only kind; a store that several instances share will be another one.
    store.or_default("kind", |store, key| store.choice(key, &[("sled", ())]));
    writ_store::Settings { path: store.or_default("path", Section::path) }
}
