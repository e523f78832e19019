//! What differs between two handovers.

use kho_draw::Size;
use serde_json::Value;

/// Facts that say the same as others, or are compared in a way of their own.
const SKIPPED: [&str; 6] = [
    "expected",
    "extents",
    "folios_head",
    "folios_sha256",
    "found",
    "node_pages",
];

/// One line for each difference; none if there is none.
pub fn lines(old: &Value, new: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", old, new, &mut lines);
    let (gone, come) = (extents(old), extents(new));
    for (sign, title, bytes) in [
        ('-', "no longer preserved", outside(&gone, &come)),
        ('+', "preserved now", outside(&come, &gone)),
    ] {
        if bytes > 0 {
            lines.push(format!("{sign} memory {title}: {}", Size(bytes)));
        }
    }
    lines
}

fn compare(at: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            for key in old
                .keys()
                .chain(new.keys().filter(|key| !old.contains_key(*key)))
            {
                if !SKIPPED.contains(&key.as_str()) {
                    let at = if at.is_empty() {
                        key.clone()
                    } else {
                        format!("{at}.{key}")
                    };
                    let value = |side: &serde_json::Map<_, _>| side.get(key).cloned();
                    let (old, new) = (value(old), value(new));
                    compare(
                        &at,
                        &old.unwrap_or_default(),
                        &new.unwrap_or_default(),
                        lines,
                    );
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            let name = |item: &Value, i: usize| name(item).unwrap_or_else(|| i.to_string());
            let names = |side: &[Value]| -> Vec<_> {
                let items = side.iter().enumerate();
                items
                    .map(|(i, item)| (name(item, i), item.clone()))
                    .collect()
            };
            let (before, after) = (names(before), names(after));
            let find = |side: &[(String, Value)], wanted: &str| {
                let found = side.iter().find(|(name, _)| name == wanted);
                found.map(|(_, item)| item.clone()).unwrap_or_default()
            };
            for (name, item) in &before {
                compare(&format!("{at}[{name}]"), item, &find(&after, name), lines);
            }
            let is_new = |name: &str| !before.iter().any(|(known, _)| known == name);
            for (name, item) in after.iter().filter(|(name, _)| is_new(name)) {
                compare(&format!("{at}[{name}]"), &Value::Null, item, lines);
            }
        }
        (Value::Null, new) => lines.push(format!("+ {at}: {}", short(at, new))),
        (old, Value::Null) => lines.push(format!("- {at}: {}", short(at, old))),
        (old, new) => lines.push(format!("~ {at}: {} -> {}", short(at, old), short(at, new))),
    }
}

/// What an entry of a list is known by.
fn name(item: &Value) -> Option<String> {
    let key = ["name", "token", "consumer", "component"];
    let found = key.into_iter().find_map(|key| item.get(key))?;
    Some(
        found
            .as_str()
            .map_or_else(|| found.to_string(), str::to_owned),
    )
}

/// A value on part of a line; addresses as people write them.
fn short(at: &str, value: &Value) -> String {
    let field = at.rsplit(['.', '[']).next().unwrap_or_default();
    let is_addr = ["addr", "start", "entry", "data", "preserved_memory_map"].contains(&field)
        || field.ends_with("_addr");
    match value {
        Value::Number(number) if is_addr => number
            .as_u64()
            .map_or_else(|| number.to_string(), |n| format!("{n:#x}")),
        Value::String(text) if field.ends_with("sha256") => {
            format!("{}...", text.get(..12).unwrap_or(text))
        }
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| format!("{key} {}", short(&format!("{at}.{key}"), value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => format!("{} entries", items.len()),
        other => other.to_string(),
    }
}

/// Start and end of each extent, ascending.
fn extents(facts: &Value) -> Vec<(u64, u64)> {
    let all = facts.get("extents").and_then(Value::as_array);
    let range = |extent: &Value| {
        let start = extent.get("addr")?.as_u64()?;
        Some((start, start + extent.get("size")?.as_u64()?))
    };
    all.into_iter().flatten().filter_map(range).collect()
}

/// Bytes that are in `these` and not in `those`.
fn outside(these: &[(u64, u64)], those: &[(u64, u64)]) -> u64 {
    let mut those = those.iter().copied().peekable();
    let mut bytes = 0;
    for &(start, end) in these {
        bytes += end - start;
        while let Some(&(from, to)) = those.peek() {
            bytes -= to.min(end).saturating_sub(from.max(start));
            // One that reaches further may cover the next of these as well.
            if to > end {
                break;
            }
            those.next();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_outside_are_counted_once() {
        let these = [(0, 10), (20, 30), (40, 50)];
        for (those, bytes) in [
            (vec![], 30),
            (vec![(0, 50)], 0),
            (vec![(5, 25)], 20),
            (vec![(0, 1), (2, 3), (29, 41)], 26),
            (vec![(10, 20), (30, 40), (50, 60)], 30),
        ] {
            assert_eq!(outside(&these, &those), bytes, "{those:?}");
        }
    }

    #[test]
    fn lists_are_compared_by_name() {
        let old = json!({"sessions": [{"name": "a", "n": 1}, {"name": "b", "n": 2}]});
        let new = json!({"sessions": [{"name": "b", "n": 3}, {"name": "c", "n": 4}]});
        assert_eq!(
            lines(&old, &new),
            [
                "- sessions[a]: n 1, name a",
                "~ sessions[b].n: 2 -> 3",
                "+ sessions[c]: n 4, name c",
            ]
        );
        assert!(lines(&old, &old).is_empty());
    }

    #[test]
    fn extents_are_compared_by_memory() {
        let old = json!({"extents": [{"addr": 0, "size": 8192}]});
        let new = json!({"extents": [{"addr": 0, "size": 4096}, {"addr": 4096, "size": 8192}]});
        assert_eq!(lines(&old, &new), ["+ memory preserved now: 4 KiB"]);
    }
}
