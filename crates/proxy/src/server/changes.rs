//! What a reload changes, what stays, and what has to wait for a restart.

use portcullis_config::Config;
use std::fmt;

/// The difference between two configurations.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changes {
    /// By kind of block.
    blocks: Vec<(&'static str, Blocks)>,
    /// Blocks without names that are not what they were.
    settings: Vec<&'static str>,
    /// What stays as it was until the process is started again.
    pub(super) restart: Vec<&'static str>,
}

/// Blocks that have names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Blocks {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    kept: usize,
}

impl Changes {
    pub(super) fn between(old: &Config, new: &Config) -> Self {
        let blocks = vec![
            (
                "listeners",
                Blocks::between(&old.listeners, &new.listeners, |it| &it.id),
            ),
            (
                "routes",
                Blocks::between(&old.routes, &new.routes, |it| &it.id),
            ),
            (
                "upstreams",
                Blocks::between(&old.upstreams, &new.upstreams, |it| &it.id),
            ),
            (
                "agents",
                Blocks::between(&old.agents, &new.agents, |it| &it.id),
            ),
        ];
        let settings = [
            ("system", old.system != new.system),
            ("admin", old.admin != new.admin),
            ("probes", old.probes != new.probes),
            ("observability", old.observability != new.observability),
            ("error-pages", old.error_pages != new.error_pages),
        ];
        let restart = [(
            "system worker-threads",
            old.system.worker_threads != new.system.worker_threads,
        )];
        let only_changed = |(name, changed): (&'static str, bool)| changed.then_some(name);
        Self {
            blocks,
            settings: settings.into_iter().filter_map(only_changed).collect(),
            restart: restart.into_iter().filter_map(only_changed).collect(),
        }
    }
}

impl Blocks {
    fn between<T: PartialEq>(old: &[T], new: &[T], id: impl Fn(&T) -> &str) -> Self {
        let by_id: std::collections::HashMap<&str, &T> =
            old.iter().map(|block| (id(block), block)).collect();
        let mut blocks = Self::default();
        for block in new {
            match by_id.get(id(block)) {
                None => blocks.added.push(id(block).to_owned()),
                Some(before) if *before == block => blocks.kept += 1,
                Some(_) => blocks.changed.push(id(block).to_owned()),
            }
        }
        let now: std::collections::HashSet<&str> = new.iter().map(&id).collect();
        let gone = old.iter().map(&id).filter(|id| !now.contains(id));
        blocks.removed = gone.map(str::to_owned).collect();
        blocks
    }
}

/// One line, as in `listeners: +https ~http 1 kept; routes: 12 kept; changed: observability`.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More names than this of one kind of change are counted instead.
        const MOST_NAMES: usize = 20;
        for (position, (kind, blocks)) in self.blocks.iter().enumerate() {
            if position > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{kind}:")?;
            for (sign, names) in [
                ('+', &blocks.added),
                ('~', &blocks.changed),
                ('-', &blocks.removed),
            ] {
                for name in names.iter().take(MOST_NAMES) {
                    write!(f, " {sign}{name}")?;
                }
                if names.len() > MOST_NAMES {
                    write!(f, " {sign}{} more", names.len() - MOST_NAMES)?;
                }
            }
            write!(f, " {} kept", blocks.kept)?;
        }
        if !self.settings.is_empty() {
            write!(f, "; changed: {}", self.settings.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(text: &str) -> Config {
        let text = format!("schema-version \"1\"\n{text}");
        let loaded = portcullis_config::load_str("test.kdl", &text, Path::new("/"), &|_| None);
        loaded.unwrap().config
    }

    #[test]
    fn added_changed_removed_and_kept_are_told_apart() {
        let old = config(
            r#"
            listeners { listener "a" { address "127.0.0.1:1" }; listener "b" { address "127.0.0.1:2" } }
            routes { route "x" { respond 200 }; route "y" { match { path "/y" }; respond 200 } }
            "#,
        );
        let new = config(
            r#"
            system { worker-threads 3 }
            listeners { listener "b" { address "127.0.0.1:2"; h2c }; listener "c" { address "127.0.0.1:3" } }
            routes {
                route "y" { match { path "/y" }; respond 200 }
                route "x" { respond 204 }
            }
            observability { access-log "off" }
            "#,
        );
        let changes = Changes::between(&old, &new);
        assert_eq!(
            changes.to_string(),
            "listeners: +c ~b -a 0 kept; routes: ~x 1 kept; upstreams: 0 kept; agents: 0 kept; \
             changed: system, observability"
        );
        assert_eq!(changes.restart, ["system worker-threads"]);
        let none = Changes::between(&new, &new);
        assert_eq!(
            none.to_string(),
            "listeners: 2 kept; routes: 2 kept; upstreams: 0 kept; agents: 0 kept"
        );
    }

    #[test]
    fn many_names_are_counted() {
        let routes: String = (0..30)
            .map(|number| {
                format!("route \"r{number}\" {{ match {{ path \"/{number}\" }}; respond 200 }}\n")
            })
            .collect();
        let listeners = "listeners { listener \"a\" { address \"127.0.0.1:1\" } }\n";
        let old = config(&format!(
            "{listeners}routes {{ route \"x\" {{ match {{ path \"/x\" }}; respond 200 }} }}"
        ));
        let new = config(&format!("{listeners}routes {{ {routes} }}"));
        let text = Changes::between(&old, &new).to_string();
        assert!(text.contains("+r19 +10 more -x"), "{text}");
    }
}
