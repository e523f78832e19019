//! The facts as a person wants to read them.

use std::fmt::Write;

use console::{Style, style};
use kho_draw::{Kind, MemoryMap, Size};
use serde_json::Value;

/// One page of text. The map is drawn in colour if standard output is a terminal.
pub fn page(facts: &Value, map: Option<&MemoryMap>, details: bool) -> String {
    let mut out = String::new();
    let facts = &printable(facts);
    let Some(sides) = facts["debugfs"].as_object() else {
        handover(&mut out, facts, map, details);
        return out;
    };
    for (side, facts) in sides {
        let what = match side.as_str() {
            "in" => "in: what this kernel took over",
            _ => "out: what it is about to hand over",
        };
        let _ = writeln!(out, "{what}");
        handover(&mut out, facts, map, details);
    }
    out
}

/// Facts whose names and strings, which an image can choose, do nothing to a terminal.
fn printable(facts: &Value) -> Value {
    match facts {
        Value::String(text) => harmless(text).into(),
        Value::Array(items) => items.iter().map(printable).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            fields
                .map(|(name, value)| (harmless(name), printable(value)))
                .collect()
        }
        other => other.clone(),
    }
}

/// Text without characters that a terminal obeys.
pub fn harmless(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn handover(out: &mut String, facts: &Value, map: Option<&MemoryMap>, details: bool) {
    description(out, facts, map);
    components(out, &facts["preflight"]);
    if details {
        preflight(out, &facts["preflight"]);
    }
}

fn description(out: &mut String, facts: &Value, map: Option<&MemoryMap>) {
    let _ = write!(out, "handover    {}", text(&facts["compatible"]));
    if let Some(generation) = facts["generation"].as_str() {
        let _ = write!(out, " ({generation})");
    }
    if let Some(arch) = facts["arch"].as_str() {
        let page = facts["page_size"].as_u64().unwrap_or(0);
        let _ = write!(out, ", {arch}, {} pages", size(page));
    }
    if let Some(who) = facts["kexec_metadata"].as_object() {
        let (release, count) = (text(&who["previous_release"]), &who["kexec_count"]);
        let _ = write!(out, ", from {release}, kexec number {count}");
    }
    let _ = writeln!(out);
    let fdt = &facts["kho_data"]["fdt_addr"];
    let _ = writeln!(
        out,
        "description {} bytes{}, map of memory at {}",
        facts["fdt_totalsize"],
        if fdt.is_null() {
            String::new()
        } else {
            format!(" at {}", addr(fdt))
        },
        addr(&facts["preserved_memory_map"]),
    );
    if let Some(map) = map {
        let total = map.bytes(Kind::Description);
        let preserved = facts["preserved_bytes"].as_u64().unwrap_or(0).max(1);
        let share = match total as f64 * 100.0 / preserved as f64 {
            share if share < 0.01 => "less than 0.01".to_owned(),
            share => format!("{share:.2}"),
        };
        let _ = writeln!(
            out,
            "            takes {} of memory in all, {} of it the map: {share} % of what is preserved",
            Size(total),
            bytes(&facts["description_bytes"]["map"]),
        );
    }
    if let Some(map) = map {
        line(out, map);
    }
    memory(out, facts);
    if facts["scratch"].as_array().is_some_and(Vec::is_empty) {
        let _ = writeln!(
            out,
            "scratch     not known, so nothing is said of what lies in it"
        );
    }
    list(out, "scratch", &facts["scratch"], |out, area| {
        let _ = write!(out, "{:>14}  ", addr(&area["addr"]));
        if area["size"] == 0 {
            out.push_str("empty");
            return;
        }
        let _ = write!(out, "{}", bytes(&area["size"]));
        // The check refuses a handover in which something preserved touches scratch.
        let _ = write!(out, ", nothing preserved in it");
    });
    named(out, "sub-blobs", &facts["subtrees"], |out, blob| {
        let _ = write!(out, "{:>14}  {} bytes", addr(&blob["addr"]), blob["size"]);
        if let Some(preserved) = blob["preserved"].as_bool() {
            let _ = write!(out, ", {}preserved", if preserved { "" } else { "not " });
        }
    });
    named(out, "reserve_mem", &facts["reserve_mem"], |out, region| {
        let (start, size) = (addr(&region["start"]), bytes(&region["size"]));
        let _ = write!(out, "{start:>14}  {size}");
    });
    luo(out, &facts["luo"]);
}

/// The machine's memory on one line, and what the line means.
fn line(out: &mut String, map: &MemoryMap) {
    const WIDTH: usize = 64;
    let in_colour = console::colors_enabled();
    let cell = |kind: Kind| match kind {
        Kind::Nothing => "…".to_owned(),
        kind if !in_colour => kind.letter().to_string(),
        Kind::Other => style("░").color256(244).to_string(),
        kind => style("█").color256(colour(kind)).to_string(),
    };
    let cells: String = map.line(WIDTH).into_iter().map(cell).collect();
    let _ = writeln!(out, "memory      {cells}");
    if let Some((first, last)) = map.span() {
        let _ = writeln!(out, "            {first} to {last}; gaps are one cell");
    }
    // What is too small for a cell of its own is named all the same.
    let shown = Kind::ALL.into_iter().filter(|&kind| map.bytes(kind) > 0);
    let names = shown.map(|kind| {
        let size = Size(map.bytes(kind));
        format!("{} {:<26}{size:>9}", cell(kind), kind.name())
    });
    for row in names.collect::<Vec<_>>().chunks(2) {
        let _ = writeln!(out, "            {}", row.join("     "));
    }
}

/// One of a terminal's 256 colours, like that of a picture.
fn colour(kind: Kind) -> u8 {
    match kind {
        Kind::Large => 25,
        Kind::Medium => 33,
        Kind::Small => 117,
        Kind::Description => 160,
        Kind::Scratch => 178,
        Kind::Other | Kind::Nothing => 244,
    }
}

/// Each component, its version, and who accepts it.
fn components(out: &mut String, consumers: &Value) {
    const COLUMN: usize = 11;
    let consumers: Vec<_> = consumers.as_array().into_iter().flatten().collect();
    let Some(first) = consumers.first() else {
        return;
    };
    let _ = write!(out, "{:<36}", "accepted by");
    for consumer in &consumers {
        let name = text(&consumer["consumer"]);
        let name = name.replace("Linux ", "").replace(", ", "-");
        let name = name.replace("this library", "kho-core");
        let _ = write!(out, "{name:<COLUMN$}");
    }
    out.truncate(out.trim_end().len());
    let _ = writeln!(out);
    let parts = first["components"].as_array().into_iter().flatten();
    for (i, part) in parts
        .enumerate()
        .filter(|(_, part)| part["found"] != "none")
    {
        let (name, found) = (text(&part["component"]), text(&part["found"]));
        let _ = write!(out, "  {name:<10}{found:<24}");
        for consumer in &consumers {
            let (mark, painted) = mark(text(&consumer["components"][i]["outcome"]));
            let space = COLUMN.saturating_sub(mark.len());
            let _ = write!(out, "{painted}{:space$}", "");
        }
        out.truncate(out.trim_end().len());
        let _ = writeln!(out);
    }
    let _ = writeln!(
        out,
        "  (-: boots without it; ?: not established; why: --preflight)"
    );
}

/// An outcome in a word, and painted.
fn mark(outcome: &str) -> (&str, String) {
    let (mark, style) = match outcome {
        "accepts" => ("yes", Style::new().green()),
        "boots without it" => ("-", Style::new().dim()),
        "not established" => ("?", Style::new().yellow()),
        "refuses sessions" => ("refuses", Style::new().red()),
        other => (other, Style::new().red().bold()),
    };
    (mark, style.apply_to(mark).to_string())
}

fn preflight(out: &mut String, consumers: &Value) {
    for consumer in consumers.as_array().into_iter().flatten() {
        let (who, outcome) = (text(&consumer["consumer"]), text(&consumer["outcome"]));
        let _ = writeln!(out, "{who:<18}{outcome}");
        for part in consumer["components"].as_array().into_iter().flatten() {
            if part["outcome"] != "accepts" {
                let [name, outcome, found, expected] =
                    ["component", "outcome", "found", "expected"].map(|key| text(&part[key]));
                let _ = writeln!(
                    out,
                    "  {name:<16}{outcome}: found {found}, reads {expected}"
                );
            }
        }
    }
}

fn memory(out: &mut String, facts: &Value) {
    let Some(orders) = facts["folios_by_order"].as_object() else {
        return;
    };
    let page = facts["page_size"].as_u64().unwrap_or(0);
    let _ = write!(
        out,
        "preserved   {} in {} folios and {} extents",
        bytes(&facts["preserved_bytes"]),
        facts["folios"],
        facts["extents"].as_array().map_or(0, Vec::len),
    );
    if let Some(nodes) = facts["radix"]["node_pages"].as_array() {
        let _ = write!(out, "; the map takes {} pages", nodes.len());
    }
    let _ = writeln!(out);
    let mut orders: Vec<_> = orders
        .iter()
        .filter_map(|(order, n)| Some((order.parse::<u32>().ok()?, n.as_u64()?)))
        .collect();
    orders.sort_unstable();
    for (order, count) in orders {
        let each = page << order;
        let _ = writeln!(
            out,
            "  order {order:>2}  {count:>8} of {:>8}  {:>10}",
            size(each),
            size(each * count)
        );
    }
}

fn luo(out: &mut String, luo: &Value) {
    if let Some(text) = luo.as_str() {
        let _ = writeln!(out, "LUO         {text}");
    }
    let Some(sessions) = luo["sessions"].as_array() else {
        return;
    };
    let (version, number) = (text(&luo["compatible"]), &luo["liveupdate_num"]);
    let _ = writeln!(out, "LUO         {version}, live update number {number}");
    for session in sessions {
        let _ = writeln!(
            out,
            "  session {}  {}",
            session["name"],
            count(&session["count"], "file")
        );
        for file in session["files"].as_array().into_iter().flatten() {
            let token = file["token"].as_u64().unwrap_or(0);
            let _ = write!(out, "    token {token:#x}  {}", text(&file["compatible"]));
            if let Some(memfd) = file["memfd"].as_object() {
                let content = match memfd.get("content_sha256").and_then(Value::as_str) {
                    Some(digest) => format!("sha256 {}", digest.get(..16).unwrap_or(digest)),
                    None => "contents not in the image".to_owned(),
                };
                let folios = &memfd["nr_folios"];
                let _ = write!(
                    out,
                    "  {} in {folios} folios, {content}",
                    bytes(&memfd["size"])
                );
            }
            let _ = writeln!(out);
        }
    }
    for flb in luo["flbs"].as_array().into_iter().flatten() {
        let holders = count(&flb["count"], "holder");
        let _ = writeln!(out, "  object {}  {holders}", flb["name"]);
    }
}

fn list(out: &mut String, title: &str, items: &Value, line: impl Fn(&mut String, &Value)) {
    for (i, item) in items.as_array().into_iter().flatten().enumerate() {
        let _ = write!(out, "{:<12}", if i == 0 { title } else { "" });
        line(out, item);
        let _ = writeln!(out);
    }
}

fn named(out: &mut String, title: &str, items: &Value, line: impl Fn(&mut String, &Value)) {
    let items = || items.as_object().into_iter().flatten();
    let longest = items().map(|(name, _)| name.chars().count()).max();
    let width = longest.unwrap_or_default().max(15) + 1;
    for (i, (name, item)) in items().enumerate() {
        let _ = write!(out, "{:<12}{name:<width$}", if i == 0 { title } else { "" });
        line(out, item);
        let _ = writeln!(out);
    }
}

fn count(number: &Value, what: &str) -> String {
    let plural = if *number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn addr(value: &Value) -> String {
    value
        .as_u64()
        .map_or("?".to_owned(), |addr| format!("{addr:#x}"))
}

fn bytes(value: &Value) -> String {
    size(value.as_u64().unwrap_or(0))
}

fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use kho::hal::{PhysAddr, PhysRange};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_share_of_the_description_is_never_nothing() {
        let mut map = MemoryMap::new();
        let range = PhysRange::new(PhysAddr::new(0), 4096).unwrap();
        map.add(range, Kind::Description);
        for (preserved, share) in [
            (4096_u64, "100.00 %"),
            (8192, "50.00 %"),
            (3 * 4096, "33.33 %"),
            (4096 * 10_000, "0.01 %"),
            (4096 * 10_001, "less than 0.01 %"),
            (1_u64 << 40, "less than 0.01 %"),
        ] {
            let facts = json!({ "preserved_bytes": preserved });
            let text = page(&facts, Some(&map), false);
            let expected = format!("of it the map: {share} of what is preserved\n");
            assert!(text.contains(&expected), "{preserved}: {text}");
        }
    }

    #[test]
    fn both_sides_of_debugfs_have_their_title() {
        let sides = json!({ "in": { "compatible": "a" }, "out": { "compatible": "b" } });
        let text = page(&json!({ "debugfs": sides }), None, false);
        let (took, hands) = (
            "what this kernel took over",
            "what it is about to hand over",
        );
        assert!(
            text.starts_with(&format!("in: {took}\nhandover    a\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("\nout: {hands}\nhandover    b\n")),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let text = page(&json!({ "luo": "not read", "scratch": [] }), None, false);
        let expected = "handover    ?\n\
                        description null bytes, map of memory at ?\n\
                        scratch     not known, so nothing is said of what lies in it\n\
                        LUO         not read\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_outcome_is_one_word() {
        for (outcome, word) in [
            ("accepts", "yes"),
            ("boots without it", "-"),
            ("not established", "?"),
            ("refuses sessions", "refuses"),
            ("panics", "panics"),
        ] {
            assert_eq!(mark(outcome).0, word);
        }
    }
}
