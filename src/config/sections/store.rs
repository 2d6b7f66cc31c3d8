//! `[store]`: the folder of the store.

use crate::config::document::Section;

pub(crate) fn read(store: &mut Section<'_>) -> writ_store::Settings {
    // The only kind so far.
    store.or_default("kind", |store, key| store.choice(key, &[("sled", ())]));
    writ_store::Settings::Sled { path: store.or_default("path", Section::path) }
}
