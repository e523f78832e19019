//! A file with its mutants in it, each behind a switch.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result};

use super::list::Mutant;
use super::sites::Sites;

/// What became of a mutant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Woven,
    /// Only the compiler evaluates it.
    Constant,
    /// No place was found for it.
    Lost,
}

/// A file that was woven.
pub struct Woven {
    pub text: String,
    /// What became of each of its mutants.
    pub places: Vec<(usize, Place)>,
    /// The mutants' own text, in bytes of `text`.
    pub branches: Vec<(Range<usize>, usize)>,
    /// All of a place, and the mutants that it has.
    pub wholes: Vec<(Range<usize>, Vec<usize>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// `if ON { return MUTANT; } ...`
    Body,
    /// `(if ON { MUTANT } else { ... })`
    Value,
    /// The same, behind the name of a field.
    Field,
    /// ` if !ON`
    NewGuard,
}

/// Outer places come first.
type Key = (usize, std::cmp::Reverse<usize>, Form);

struct Node {
    whole: Range<usize>,
    form: Form,
    prefix: String,
    mutants: Vec<(usize, String)>,
}

/// Weaves those of `mutants` (by number) into `text`, but for what `skip` names.
pub fn weave(
    text: &str,
    mutants: &[(usize, &Mutant)],
    skip: &dyn Fn(usize) -> bool,
) -> Result<Woven> {
    let sites = Sites::of(text)?;
    let lines: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let offset = |(line, column): (usize, usize)| {
        let start = *lines.get(line - 1)?;
        let rest = text.get(start..)?;
        let columns = rest.char_indices().map(|(at, _)| at);
        columns
            .chain([rest.len()])
            .nth(column - 1)
            .map(|at| start + at)
    };
    let mut nodes: BTreeMap<Key, Node> = BTreeMap::new();
    let mut places = Vec::new();
    for &(id, mutant) in mutants {
        let start = offset(mutant.start).context("a line")?;
        let end = offset(mutant.end).context("a line")?;
        let mut prefix = String::new();
        let found = match mutant.genre.as_str() {
            "BinaryOperator" | "UnaryOperator" => sites.operators.get(&start).map(|site| {
                let whole = &site.whole;
                let new = [
                    &text[whole.start..start],
                    &mutant.replacement,
                    &text[end..whole.end],
                ];
                (site, Form::Value, new.concat())
            }),
            "FnValue" => {
                let inside =
                    |site: &&super::sites::Site| site.whole.start <= start && end <= site.whole.end;
                let bodies = sites.bodies.iter().filter(inside);
                bodies
                    .min_by_key(|site| site.whole.len())
                    .map(|site| (site, Form::Body, mutant.replacement.clone()))
            }
            "MatchArm" => sites.arms.get(&start).map(|site| {
                let form = match site.whole.is_empty() {
                    true => Form::NewGuard,
                    false => Form::Value,
                };
                (site, form, "false".into())
            }),
            "MatchArmGuard" => sites
                .guards
                .get(&start)
                .map(|site| (site, Form::Value, mutant.replacement.clone())),
            "StructField" => sites.fields.get(&start).map(|field| {
                let name = &field.name;
                prefix = format!("{name}: ");
                let new = format!("({}).{name}", &text[field.base.clone()]);
                (&field.site, Form::Field, new)
            }),
            _ => None,
        };
        let Some((site, form, new)) = found else {
            places.push((id, Place::Lost));
            continue;
        };
        if site.constant {
            places.push((id, Place::Constant));
            continue;
        }
        places.push((id, Place::Woven));
        if skip(id) {
            continue;
        }
        let whole = site.whole.clone();
        let node = nodes
            .entry((whole.start, std::cmp::Reverse(whole.end), form))
            .or_insert(Node {
                whole,
                form,
                prefix,
                mutants: Vec::new(),
            });
        node.mutants.push((id, new));
    }
    let nodes: Vec<Node> = nodes.into_values().collect();
    let mut woven = Woven {
        text: String::new(),
        places,
        branches: Vec::new(),
        wholes: Vec::new(),
    };
    woven.write(text, 0..text.len(), &nodes);
    Ok(woven)
}

impl Woven {
    /// Writes a range of the file with the nodes inside it, outer ones first.
    fn write(&mut self, text: &str, range: Range<usize>, mut nodes: &[Node]) {
        let mut at = range.start;
        while let Some((node, rest)) = nodes.split_first() {
            let inner = rest
                .iter()
                .take_while(|inner| inner.whole.end <= node.whole.end)
                .count();
            let (inner, rest) = rest.split_at(inner);
            self.text.push_str(&text[at..node.whole.start]);
            self.node(text, node, inner);
            at = node.whole.end;
            nodes = rest;
        }
        self.text.push_str(&text[at..range.end]);
    }

    fn node(&mut self, text: &str, node: &Node, inner: &[Node]) {
        let start = self.text.len();
        self.text.push_str(&node.prefix);
        if node.form == Form::Value || node.form == Form::Field {
            self.text.push('(');
        }
        for (id, new) in &node.mutants {
            match node.form {
                Form::Body => {
                    self.text
                        .push_str(&format!(" if ::mutant_switch::on({id}) {{ return "));
                }
                Form::Value | Form::Field => {
                    self.text
                        .push_str(&format!("if ::mutant_switch::on({id}) {{ "));
                }
                Form::NewGuard => {
                    self.text
                        .push_str(&format!(" if !::mutant_switch::on({id})"));
                    continue;
                }
            }
            let from = self.text.len();
            self.text.push_str(new);
            self.branches.push((from..self.text.len(), *id));
            self.text.push_str(match node.form {
                Form::Body => "; }",
                _ => " } else ",
            });
        }
        match node.form {
            Form::Body | Form::NewGuard => self.write(text, node.whole.clone(), inner),
            Form::Value => {
                self.text.push_str("{ ");
                self.write(text, node.whole.clone(), inner);
                self.text.push_str(" })");
            }
            Form::Field => {
                self.text.push_str("{ ");
                // Behind the name and its colon, or the name alone.
                let mut value = node.whole.clone();
                let name = node.prefix.len() - 2;
                if text[value.clone()].as_bytes().get(name) == Some(&b':') {
                    value.start += name + 1;
                }
                self.write(text, value, inner);
                self.text.push_str(" })");
            }
        }
        let ids = node.mutants.iter().map(|(id, _)| *id).collect();
        self.wholes.push((start..self.text.len(), ids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
const SIZE: usize = 1 + 2;
fn f(a: u32, b: Point) -> Point {
    let c = !a + a * 2;
    if let Some(d) = g(c) && d > 1 {
        return b;
    }
    match a {
        0 => b,
        n if n == c => Point { x: 1, ..b },
        _ => b,
    }
}
";

    /// A mutant of the first such text behind `line`.
    fn mutant(genre: &str, line: usize, old: &str, replacement: &str) -> Mutant {
        let text = TEXT.lines().nth(line - 1).unwrap();
        let column = text.find(old).unwrap() + 1;
        Mutant {
            package: String::new(),
            file: String::new(),
            name: String::new(),
            genre: genre.into(),
            replacement: replacement.into(),
            start: (line, column),
            end: (line, column + old.len()),
        }
    }

    fn woven(mutants: &[Mutant]) -> Woven {
        let numbered: Vec<_> = mutants.iter().enumerate().collect();
        weave(TEXT, &numbered, &|_| false).unwrap()
    }

    #[test]
    fn each_genre_has_its_place() {
        let body = TEXT.lines().nth(2).unwrap().trim();
        let done = woven(&[
            mutant("FnValue", 3, body, "Default::default()"),
            mutant("BinaryOperator", 3, "+", "-"),
            mutant("BinaryOperator", 3, "*", "/"),
            mutant("UnaryOperator", 3, "!", ""),
            mutant("MatchArm", 8, "0 => b,", ""),
            mutant("MatchArm", 9, "n if n == c => Point { x: 1, ..b },", ""),
            mutant("MatchArmGuard", 9, "n == c", "true"),
            mutant("StructField", 9, "x: 1", ""),
        ]);
        assert!(done.places.iter().all(|(_, place)| *place == Place::Woven));
        let expected = "\
const SIZE: usize = 1 + 2;
fn f(a: u32, b: Point) -> Point { if ::mutant_switch::on(0) { return Default::default(); }
    let c = (if ::mutant_switch::on(1) { !a - a * 2 } else { (if ::mutant_switch::on(3) { a } else { !a }) + (if ::mutant_switch::on(2) { a / 2 } else { a * 2 }) });
    if let Some(d) = g(c) && d > 1 {
        return b;
    }
    match a {
        0 if !::mutant_switch::on(4) => b,
        n if (if ::mutant_switch::on(5) { false } else if ::mutant_switch::on(6) { true } else { n == c }) => Point { x: (if ::mutant_switch::on(7) { (b).x } else {  1 }), ..b },
        _ => b,
    }
}
";
        assert_eq!(done.text, expected);
        for (range, id) in done.branches {
            assert!(!done.text[range].contains("mutant_switch"), "{id}");
        }
    }

    /// What cannot be a branch stays as it is, and says so; what is left out is not woven.
    #[test]
    fn what_has_no_place_is_named() {
        let mutants = [
            mutant("BinaryOperator", 1, "+", "-"),
            mutant("BinaryOperator", 4, "&&", "||"),
            mutant("BinaryOperator", 4, ">", "<"),
        ];
        let places = woven(&mutants).places;
        let expected = [Place::Constant, Place::Lost, Place::Woven];
        assert_eq!(places, expected.into_iter().enumerate().collect::<Vec<_>>());
        let numbered: Vec<_> = mutants.iter().enumerate().collect();
        let none = weave(TEXT, &numbered, &|_| true).unwrap();
        assert_eq!(none.text, TEXT);
    }
}
