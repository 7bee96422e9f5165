//! The command `series`: lists stored series, and removes them. A removal is one script
//! call, so that no reader sees half of it; with shards, readers are shut out meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    ops::ControlFlow,
};

use anyhow::{Context as _, bail, ensure};
use functional_scaffold_protocol::{
    calls::{Script, families_key, lost_counts_key},
    cell::{decode_field, fields_of_series},
    escape::escape,
    family::Family,
    removal::{remove_family_call, remove_registration_call, remove_series_call},
};
use futures_util::future::try_join_all;

use crate::{
    cli::{Config, ListOptions, RemoveOptions},
    commands::{
        selector::Selector,
        stores::{ConnectedStore, RegistryEntry, change_all},
    },
    redis_client::{self, Failure},
    scrape::{
        registry::{RegisteredFamily, family_name},
        scan::Scanner,
    },
};

/// Approximate number of fields that one call deletes. Redis serves no other client
/// meanwhile.
const FIELDS_PER_CALL: usize = 1000;

/// Prints the selected series in the syntax of selectors, or the families.
pub(crate) async fn list(config: &Config, options: &ListOptions) -> anyhow::Result<()> {
    let stores = ConnectedStore::all(config).await?;
    let families = families(&stores).await?;
    for selector in &options.selectors {
        check_family(&families, selector)?;
    }
    // By the name of the family: its type, and its series in any store.
    let mut listed: BTreeMap<&str, (&str, BTreeSet<String>)> = BTreeMap::new();
    for (store, families) in stores.iter().zip(&families) {
        for RegisteredFamily { name, layouts } in families {
            let selectors = options.selectors.iter();
            let selectors = selectors.filter(|selector| selector.family == *name);
            let selectors: Vec<&Selector> = selectors.collect();
            if selectors.is_empty() && !options.selectors.is_empty() {
                continue;
            }
            let kind = layouts.first().map_or("", |layout| layout.kind.name());
            let (_, series) = listed
                .entry(name)
                .or_insert_with(|| (kind, BTreeSet::new()));
            for layout in layouts {
                series.extend(store.fields(layout, &selectors).await?.into_keys());
            }
        }
    }
    let mut out = String::new();
    for (name, (kind, series)) in listed {
        if options.families {
            out.push_str(&format!("{name}\t{kind}\t{}\n", series.len()));
        } else {
            for labels in series {
                out.push_str(&format!("{name}{{{}}}\n", escape(&labels)));
            }
        }
    }
    print(&out);
    Ok(())
}

/// Prints what is selected, and removes it if that is confirmed.
pub(crate) async fn remove(config: &Config, options: &RemoveOptions) -> anyhow::Result<()> {
    let mut stores = ConnectedStore::all(config).await?;
    let families = families(&stores).await?;
    // An interrupted removal may have left nothing but closed shards.
    let mut is_closed = false;
    for store in &mut stores {
        is_closed |= store.closed_by().await?.is_some();
    }
    let mut removals: Vec<Vec<Removal>> = stores.iter().map(|_| Vec::new()).collect();
    for selector in &options.selectors {
        if selector.labels.is_some() && !is_closed {
            check_family(&families, selector)?;
        }
        let mut is_found = false;
        for ((store, families), removals) in stores.iter().zip(&families).zip(&mut removals) {
            let selected = if selector.labels.is_none() {
                store.select_family(selector).await?
            } else {
                match find(families, selector) {
                    Some(family) => store.select_series(family, selector).await?,
                    None => Vec::new(),
                }
            };
            is_found |= !selected.is_empty();
            removals.extend(selected);
        }
        ensure!(is_found || is_closed, "no series matches {selector}");
    }
    let names: BTreeSet<&str> = removals
        .iter()
        .flatten()
        .flat_map(|removal| removal.names.iter().map(String::as_str))
        .collect();
    print(
        &names
            .iter()
            .map(|name| format!("{}\n", escape(name)))
            .collect::<String>(),
    );
    if options.dry_run {
        return Ok(());
    }
    ensure!(
        options.yes,
        "nothing was removed; --yes removes these {}",
        names.len()
    );
    let selectors = options.selectors.iter().map(ToString::to_string);
    let command = format!("series remove {}", selectors.collect::<Vec<_>>().join(" "));
    let prefixes = stores.iter().map(|store| store.prefix().to_owned());
    let everywhere = in_all_stores(&prefixes.collect::<Vec<_>>(), &removals);
    let mut of_store = removals.iter().zip(everywhere);
    change_all(&mut stores, &command, async |store| {
        let Some((own, of_others)) = of_store.next() else {
            return Ok(());
        };
        for removal in own.iter().map(|removal| &removal.target).chain(&of_others) {
            store.remove(removal).await?;
        }
        Ok(())
    })
    .await?;
    eprintln!("removed {}", names.len());
    Ok(())
}

/// For each store, what is removed from others: it may have lost the same series, which
/// readers serve from memory until the removal is recorded there as well.
fn in_all_stores(prefixes: &[String], removals: &[Vec<Removal>]) -> Vec<Vec<Target>> {
    let moved_to = |own: &str| {
        let own_targets =
            |target: &Target| removals.iter().flatten().any(|it| it.target == *target);
        let mut moved: Vec<Target> = Vec::new();
        for (prefix, removals) in prefixes.iter().zip(removals) {
            let targets = removals
                .iter()
                .map(|removal| removal.target.moved(prefix, own));
            for target in targets.flatten() {
                if !own_targets(&target) && !moved.contains(&target) {
                    moved.push(target);
                }
            }
        }
        moved
    };
    prefixes.iter().map(|own| moved_to(own)).collect()
}

/// The families that each store serves.
async fn families(stores: &[ConnectedStore]) -> Result<Vec<Vec<RegisteredFamily>>, Failure> {
    try_join_all(stores.iter().map(ConnectedStore::families)).await
}

/// Fails unless some store serves the family of a selector.
fn check_family(stores: &[Vec<RegisteredFamily>], selector: &Selector) -> anyhow::Result<()> {
    let is_served = stores
        .iter()
        .any(|families| find(families, selector).is_some());
    ensure!(is_served, "no family {:?} is served", selector.family);
    Ok(())
}

fn find<'a>(families: &'a [RegisteredFamily], selector: &Selector) -> Option<&'a RegisteredFamily> {
    families
        .iter()
        .find(|family| family.name == selector.family)
}

/// Ignores EPIPE (`… | head`).
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// What one call removes.
struct Removal {
    /// For the output.
    names: Vec<String>,
    target: Target,
}

#[derive(Clone, PartialEq, Eq)]
enum Target {
    Series {
        key: String,
        label_sets: Vec<String>,
        fields: Vec<String>,
    },
    Family {
        field: String,
        key: String,
    },
    /// A registration alone. Its hash, if it has one of its own, stays at `key`, and readers
    /// forget what they served of it.
    Registration {
        field: String,
        key: Option<String>,
        why: String,
    },
}

impl Target {
    /// The same in another store. `None` for a registration, and for a key outside of the
    /// store's prefix.
    fn moved(&self, from: &str, to: &str) -> Option<Self> {
        let moved = |key: &str| Some(format!("{to}{}", key.strip_prefix(from)?));
        match self {
            Self::Series {
                key,
                label_sets,
                fields,
            } => Some(Self::Series {
                key: moved(key)?,
                label_sets: label_sets.clone(),
                fields: fields.clone(),
            }),
            Self::Family { field, key } => Some(Self::Family {
                field: field.clone(),
                key: moved(key)?,
            }),
            Self::Registration { .. } => None,
        }
    }
}

impl ConnectedStore {
    /// The fields of each series of a hash, by label set, that any of the selectors
    /// matches, or of every series if there are no selectors. Includes series that
    /// Redis lost, of which only lost counts are left: they are served.
    async fn fields(
        &self,
        layout: &Family,
        selectors: &[&Selector],
    ) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let is_selected = |labels: &str| {
            selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
        };
        let scanner = Scanner::new(self.connection.clone(), &self.store.options);
        for key in [&layout.key, &lost_counts_key(self.prefix(), &layout.key)] {
            let scan = scanner.scan("HSCAN", key, |page| {
                for (field, _value) in page {
                    if let Ok(cell) = decode_field(layout, field)
                        && is_selected(cell.labels())
                    {
                        let fields = series.entry(cell.labels().to_owned()).or_default();
                        fields.insert(String::from_utf8_lossy(field).into_owned());
                    }
                }
                ControlFlow::Continue(())
            });
            scan.await
                .with_context(|| format!("cannot read the key {key:?}"))?;
        }
        Ok(series)
    }

    async fn select_series(
        &self,
        family: &RegisteredFamily,
        selector: &Selector,
    ) -> anyhow::Result<Vec<Removal>> {
        let mut removals = Vec::new();
        for layout in &family.layouts {
            let series: Vec<_> = self
                .fields(layout, &[selector])
                .await?
                .into_iter()
                .collect();
            if !series.is_empty()
                && let Some(why) = self.why_untouchable(&layout.key).await?
            {
                let name = &family.name;
                bail!("no series of {name} can be removed, only its registration: {why}");
            }
            let fields = fields_of_series(layout, "").len();
            for series in series.chunks((FIELDS_PER_CALL / fields).max(1)) {
                let all = series.iter().flat_map(|(labels, fields)| {
                    // Also fields that do not exist yet: an observation may create them
                    // before the removal.
                    let possible = fields_of_series(layout, labels);
                    possible.into_iter().chain(fields.iter().cloned())
                });
                let label_sets = series.iter().map(|(labels, _)| labels.clone());
                let names = series
                    .iter()
                    .map(|(labels, _)| format!("{}{{{labels}}}", family.name));
                removals.push(Removal {
                    names: names.collect(),
                    target: Target::Series {
                        key: layout.key.clone(),
                        label_sets: label_sets.collect(),
                        fields: all.collect::<BTreeSet<_>>().into_iter().collect(),
                    },
                });
            }
        }
        Ok(removals)
    }

    /// Selects every registration of a name, including invalid ones.
    async fn select_family(&self, selector: &Selector) -> Result<Vec<Removal>, Failure> {
        let all = self.registrations().await?;
        let is_selected = |entry: &&RegistryEntry| family_name(&entry.field) == selector.family;
        let mut removals = Vec::new();
        for RegistryEntry { field, key } in all.iter().filter(is_selected) {
            let field = field.clone();
            let shared = all
                .iter()
                .find(|other| !is_selected(other) && other.key == *key);
            let target = match (key, shared) {
                (None, _) => Target::Registration {
                    field,
                    key: None,
                    why: "it is invalid".into(),
                },
                (Some(key), Some(RegistryEntry { field: other, .. })) => Target::Registration {
                    field,
                    key: None,
                    why: format!("{other} has the same key {key:?}"),
                },
                (Some(key), None) => match self.why_untouchable(key).await? {
                    Some(why) => Target::Registration {
                        field,
                        key: Some(key.clone()),
                        why,
                    },
                    None => Target::Family {
                        field,
                        key: key.clone(),
                    },
                },
            };
            let names = vec![selector.family.clone()];
            removals.push(Removal { names, target });
        }
        Ok(removals)
    }

    async fn remove(&mut self, target: &Target) -> Result<(), Failure> {
        let (prefix, random) = (self.prefix(), redis_client::random());
        let call = match target {
            Target::Series {
                key,
                label_sets,
                fields,
            } => remove_series_call(prefix, random, key, label_sets, fields),
            Target::Family { field, key } => remove_family_call(prefix, random, key, field),
            Target::Registration { field, key, why } => {
                let text = format!("{field}: only the registration is removed: {why}");
                eprintln!("{}", escape(&text));
                let Some(key) = key else {
                    let mut command = redis::cmd("HDEL");
                    command.arg(families_key(prefix)).arg(field);
                    return self.connection.query(&command).await;
                };
                remove_registration_call(prefix, random, key, field)
            }
        };
        for key in self.connection.call(&Script::REMOVE, &call).await? {
            eprintln!("the key {key:?} does not hold a hash, and was left alone");
        }
        Ok(())
    }
}
