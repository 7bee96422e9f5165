//! The command `series`: lists what is in the store and removes it. Owns what is
//! chosen and what is said of it; the removal itself is one script call, so that
//! no reader sees half of it.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    io::Write as _,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    calls::{Script, families_key, is_own_key},
    cell::fields_of_series,
    family::{Family, LAYOUT_SEPARATOR},
    removal::{remove_family_call, remove_series_call},
};
use redis::RedisError;

use crate::{
    commands::{ListOptions, RemoveOptions},
    config::Config,
    inventory::Inventory,
    registry::Registered,
    script,
    selector::Selector,
};

/// Fields that one call deletes, about: Redis serves nobody else meanwhile.
const FIELDS_A_CALL: usize = 1000;

/// Prints the families, or the series that are selected, in the syntax of
/// selectors.
///
/// # Errors
/// Redis cannot be read, or a family that is selected is not served.
pub async fn list(config: &Config, options: &ListOptions) -> anyhow::Result<()> {
    let store = Inventory::open(config).await?;
    let registered = store.registered().await?;
    let mut out = String::new();
    let chosen = |name: &str| {
        let of_family = |selector: &&Selector| selector.family == name;
        options
            .selectors
            .iter()
            .filter(of_family)
            .collect::<Vec<_>>()
    };
    for selector in &options.selectors {
        known(&registered, selector)?;
    }
    for family in &registered {
        let selectors = chosen(&family.name);
        if selectors.is_empty() && !options.selectors.is_empty() {
            continue;
        }
        let mut sets = BTreeSet::new();
        for layout in &family.layouts {
            sets.extend(store.fields(layout, &selectors).await?.into_keys());
        }
        if options.families {
            let kind = family
                .layouts
                .first()
                .map_or("", |layout| layout.kind.name());
            out.push_str(&format!("{}\t{kind}\t{}\n", family.name, sets.len()));
        } else {
            sets.iter()
                .for_each(|set| push_series(&mut out, &family.name, set));
        }
    }
    print(&out);
    Ok(())
}

/// Removes what is selected and prints it, or only prints it.
///
/// # Errors
/// Redis cannot be read or written, nothing is selected, or it was not said
/// that it is meant.
pub async fn remove(config: &Config, options: &RemoveOptions) -> anyhow::Result<()> {
    let mut store = Inventory::open(config).await?;
    let registered = store.registered().await?;
    let mut removals = Vec::new();
    for selector in &options.selectors {
        let found = if selector.labels.is_none() {
            store.choose_family(selector).await?
        } else {
            store
                .choose_series(known(&registered, selector)?, selector)
                .await?
        };
        ensure!(!found.is_empty(), "no series matches {selector}");
        removals.extend(found);
    }
    let names: BTreeSet<String> = removals
        .iter_mut()
        .flat_map(|removal| std::mem::take(&mut removal.names))
        .collect();
    let list: String = names.iter().map(|name| format!("{name}\n")).collect();
    print(&list);
    if options.dry_run {
        return Ok(());
    }
    ensure!(
        options.yes,
        "nothing was removed; --yes removes these {}",
        names.len()
    );
    for removal in removals {
        store.remove(removal).await?;
    }
    eprintln!("removed {}", names.len());
    Ok(())
}

fn known<'a>(registered: &'a [Registered], selector: &Selector) -> anyhow::Result<&'a Registered> {
    registered
        .iter()
        .find(|family| family.name == selector.family)
        .with_context(|| format!("no family {:?} is served", selector.family))
}

fn push_series(out: &mut String, name: &str, labels: &str) {
    out.push_str(&format!("{name}{{{labels}}}\n"));
}

/// Whoever reads it may have seen enough.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// What one call removes, and what it is called.
struct Removal {
    names: Vec<String>,
    what: What,
}

enum What {
    Series {
        key: String,
        label_sets: Vec<String>,
        fields: Vec<String>,
    },
    Family {
        field: String,
        key: String,
    },
    /// The registration alone: there is no hash that is its own.
    Registration {
        field: String,
        why: String,
    },
}

impl Inventory {
    async fn choose_series(
        &self,
        family: &Registered,
        selector: &Selector,
    ) -> anyhow::Result<Vec<Removal>> {
        let mut removals = Vec::new();
        for layout in &family.layouts {
            let (mut names, mut sets, mut all) = (Vec::new(), Vec::new(), Vec::new());
            let series = self.fields(layout, &[selector]).await?;
            let last = series.len();
            for (n, (labels, mut fields)) in series.into_iter().enumerate() {
                // Also those that an observation may bear until then.
                fields.extend(fields_of_series(layout, &labels));
                names.push(format!("{}{{{labels}}}", family.name));
                sets.push(labels);
                all.extend(fields);
                if all.len() >= FIELDS_A_CALL || n + 1 == last {
                    removals.push(Removal {
                        names: std::mem::take(&mut names),
                        what: What::Series {
                            key: layout.key.clone(),
                            label_sets: std::mem::take(&mut sets),
                            fields: std::mem::take(&mut all),
                        },
                    });
                }
            }
        }
        Ok(removals)
    }

    /// Every registration of the name, also those that cannot be served.
    async fn choose_family(&self, selector: &Selector) -> anyhow::Result<Vec<Removal>> {
        let registrations = self.registrations().await?;
        let all: Vec<(String, Option<Family>)> = registrations
            .into_iter()
            .filter_map(|(field, json)| {
                let field = String::from_utf8(field).ok()?;
                let family = Family::decode(&field, &json).ok();
                Some((field, family))
            })
            .collect();
        let is_of = |field: &str| name_of(field) == selector.family;
        let mut removals = Vec::new();
        for (field, family) in all.iter().filter(|(field, _)| is_of(field)) {
            let field = field.clone();
            let what = match family.as_ref().map(|family| family.key.clone()) {
                None => What::Registration {
                    field,
                    why: "it cannot be read".into(),
                },
                Some(key) => {
                    let other = all.iter().find(|(other, family)| {
                        !is_of(other) && family.as_ref().is_some_and(|family| family.key == key)
                    });
                    if let Some((other, _)) = other {
                        let why = format!("{other} has the same key {key:?}");
                        What::Registration { field, why }
                    } else if is_own_key(&self.prefix, &key) {
                        let why = format!("the key {key:?} is the protocol's own");
                        What::Registration { field, why }
                    } else {
                        What::Family { field, key }
                    }
                }
            };
            let names = vec![selector.family.clone()];
            removals.push(Removal { names, what });
        }
        Ok(removals)
    }

    async fn remove(&mut self, removal: Removal) -> anyhow::Result<()> {
        let random = RandomState::new().hash_one(0);
        let call = match removal.what {
            What::Registration { field, why } => {
                eprintln!("{field}: only its registration is removed: {why}");
                return self.remove_registration(&field).await;
            }
            What::Series {
                key,
                label_sets,
                fields,
            } => remove_series_call(&self.prefix, random, &key, &label_sets, &fields),
            What::Family { field, key } => remove_family_call(&self.prefix, random, &key, &field),
        };
        let reply = script::call(&mut self.connection, &Script::REMOVE, &call).await;
        for key in reply.map_err(|error| self.redis.failure(&error))? {
            eprintln!("the key {key:?} holds no hash: it is left as it is");
        }
        Ok(())
    }

    async fn remove_registration(&mut self, field: &str) -> anyhow::Result<()> {
        let removed: Result<(), RedisError> = redis::cmd("HDEL")
            .arg(families_key(&self.prefix))
            .arg(field)
            .query_async(&mut self.connection)
            .await;
        Ok(removed.map_err(|error| self.redis.failure(&error))?)
    }
}

fn name_of(field: &str) -> &str {
    field
        .split_once(LAYOUT_SEPARATOR)
        .map_or(field, |(name, _)| name)
}
