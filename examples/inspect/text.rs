//! The facts as a person wants to read them.

use std::fmt::Write;

use serde_json::Value;

/// One page of text.
pub fn page(facts: &Value) -> String {
    let mut out = String::new();
    if let Some(sides) = facts["debugfs"].as_object() {
        for (name, side) in sides {
            let _ = writeln!(out, "{name}:");
            description(&mut out, side);
        }
    } else {
        description(&mut out, facts);
    }
    out
}

fn description(out: &mut String, facts: &Value) {
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
    memory(out, facts);
    list(out, "scratch", &facts["scratch"], |out, area| {
        let _ = write!(out, "{:>14}  {}", addr(&area["addr"]), bytes(&area["size"]));
    });
    map(out, "sub-blobs", &facts["subtrees"], |out, blob| {
        let _ = write!(out, "{:>14}  {} bytes", addr(&blob["addr"]), blob["size"]);
    });
    map(out, "reserve_mem", &facts["reserve_mem"], |out, region| {
        let _ = write!(
            out,
            "{:>14}  {}",
            addr(&region["start"]),
            bytes(&region["size"])
        );
    });
    luo(out, &facts["luo"]);
    preflight(out, &facts["preflight"]);
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
            "  session {}  {} files",
            session["name"], session["count"]
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
        let _ = writeln!(out, "  object {}  {} holders", flb["name"], flb["count"]);
    }
}

fn list(out: &mut String, title: &str, items: &Value, line: impl Fn(&mut String, &Value)) {
    for (i, item) in items.as_array().into_iter().flatten().enumerate() {
        let _ = write!(out, "{:<12}", if i == 0 { title } else { "" });
        line(out, item);
        let _ = writeln!(out);
    }
}

fn map(out: &mut String, title: &str, items: &Value, line: impl Fn(&mut String, &Value)) {
    for (i, (name, item)) in items.as_object().into_iter().flatten().enumerate() {
        let _ = write!(out, "{:<12}{name:<16}", if i == 0 { title } else { "" });
        line(out, item);
        let _ = writeln!(out);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn addr(value: &Value) -> String {
    format!("{:#x}", value.as_u64().unwrap_or(0))
}

fn bytes(value: &Value) -> String {
    size(value.as_u64().unwrap_or(0))
}

/// A size with the largest unit that leaves at least one, to one decimal where it is not whole.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let step = (bytes.max(1).ilog2() / 10).min(5);
    let unit = units[step as usize];
    if bytes.is_multiple_of(1 << (10 * step)) {
        format!("{} {unit}", bytes >> (10 * step))
    } else {
        format!("{:.1} {unit}", bytes as f64 / (1u64 << (10 * step)) as f64)
    }
}
