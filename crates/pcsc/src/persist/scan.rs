//! One pass over a flattened device tree of two levels.
//!
//! A general reader checks a tree first and then walks it, node by node and property by property:
//! four passes, and more time than everything else in a restore together. What is wanted of this
//! tree is little, so it is read in one pass that checks as it goes. Deeper nodes are passed over.
//!
//! # Guarantees
//! Total: any bytes give events and an end, or `None`. No allocation, time linear in the length.

use kho_core::{Token, Tokens};

/// What is found, in the order of the structure block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// A property of the root: name, value.
    Root(&'a [u8], &'a [u8]),
    /// A child of the root begins.
    Begin(&'a [u8]),
    /// A property of that child.
    Property(&'a [u8], &'a [u8]),
    /// The child ends.
    End,
}

/// Calls `visit` for everything in the first two levels of the tree; `None` if it is not one.
pub(super) fn scan<'a>(blob: &'a [u8], mut visit: impl FnMut(Event<'a>)) -> Option<()> {
    let mut depth = 0u32;
    // Properties come before child nodes; afterwards none may follow.
    let mut open = false;
    let mut roots = 0u32;
    for token in Tokens::new(blob)? {
        match token {
            Token::BeginNode(name) => {
                match depth {
                    0 if !name.is_empty() => return None,
                    0 => roots += 1,
                    1 => visit(Event::Begin(name)),
                    _ => {}
                }
                depth += 1;
                open = true;
            }
            Token::EndNode => {
                match depth {
                    0 => return None,
                    2 => visit(Event::End),
                    _ => {}
                }
                depth -= 1;
                open = false;
            }
            Token::Property(..) if depth == 0 || !open => return None,
            Token::Property(name, value) => match depth {
                1 => visit(Event::Root(name, value)),
                2 => visit(Event::Property(name, value)),
                _ => {}
            },
            Token::End => return (depth == 0 && roots == 1).then_some(()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use dtoolkit::fdt::{Fdt, FdtNode};
    use dtoolkit::{Node, Property};
    use proptest::prelude::*;

    use super::*;

    fn tree() -> Vec<u8> {
        let mut fdt = vm_fdt::FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_string("compatible", "pcsc-v1").unwrap();
        for name in ["dev_0000_00_00_0", "dev_0000_00_00_1"] {
            let node = fdt.begin_node(name).unwrap();
            fdt.property("da", &7u64.to_le_bytes()).unwrap();
            let deeper = fdt.begin_node("deeper").unwrap();
            fdt.property("da", &[1]).unwrap();
            fdt.end_node(deeper).unwrap();
            fdt.end_node(node).unwrap();
        }
        fdt.end_node(root).unwrap();
        fdt.finish().unwrap()
    }

    /// Kind, name and value of an event.
    type Owned = (u8, Vec<u8>, Vec<u8>);

    fn events(tree: &[u8]) -> Option<Vec<Owned>> {
        let mut events = Vec::new();
        scan(tree, |event| {
            events.push(match event {
                Event::Root(name, value) => (0, name.to_vec(), value.to_vec()),
                Event::Begin(name) => (1, name.to_vec(), Vec::new()),
                Event::Property(name, value) => (2, name.to_vec(), value.to_vec()),
                Event::End => (3, Vec::new(), Vec::new()),
            });
        })?;
        Some(events)
    }

    /// The same by a general reader.
    fn expected(tree: &[u8]) -> Option<Vec<Owned>> {
        let root = Fdt::new(tree).ok()?.root();
        let mut events = Vec::new();
        let properties = |kind, node: FdtNode<'_>, events: &mut Vec<Owned>| {
            for property in node.properties() {
                let value: &[u8] = property.value_as().ok()?;
                events.push((kind, property.name().as_bytes().to_vec(), value.to_vec()));
            }
            Some(())
        };
        properties(0, root, &mut events)?;
        for node in root.children() {
            events.push((1, node.name().as_bytes().to_vec(), Vec::new()));
            properties(2, node, &mut events)?;
            events.push((3, Vec::new(), Vec::new()));
        }
        Some(events)
    }

    #[test]
    fn both_levels_are_found_and_deeper_ones_are_not() {
        let tree = tree();
        assert_eq!(events(&tree), expected(&tree));
        assert_eq!(events(&tree).unwrap().len(), 7);
    }

    /// A tree of these tokens, well-formed or not: `<name` begins a node, `>` ends one, `.` ends
    /// the tree, and anything else is the name of a property without a value.
    fn assembled(tokens: &str) -> Vec<u8> {
        let mut structure = Vec::new();
        let mut strings = Vec::new();
        let word = |structure: &mut Vec<u8>, word: u32| structure.extend(word.to_be_bytes());
        for token in tokens.split_whitespace() {
            if let Some(name) = token.strip_prefix('<') {
                word(&mut structure, 1);
                structure.extend(name.bytes().chain([0]));
                structure.resize(structure.len().next_multiple_of(4), 0);
            } else if token == ">" {
                word(&mut structure, 2);
            } else if token == "." {
                word(&mut structure, 9);
            } else {
                word(&mut structure, 3);
                word(&mut structure, 0);
                word(&mut structure, strings.len() as u32);
                strings.extend(token.bytes().chain([0]));
            }
        }
        let (at, size) = (40, structure.len() as u32);
        let total = at + size + strings.len() as u32;
        let (names, strings_size) = (at + size, strings.len() as u32);
        let header = [
            0xd00d_feed,
            total,
            at,
            names,
            at,
            17,
            16,
            0,
            strings_size,
            size,
        ];
        let mut tree: Vec<u8> = header.into_iter().flat_map(u32::to_be_bytes).collect();
        tree.extend(structure);
        tree.extend(strings);
        tree
    }

    /// Devicetree Specification 0.4, 5.4.2: one root without a name, properties before child
    /// nodes, every node ended, and the end.
    #[test]
    fn a_tree_out_of_order_is_refused() {
        let names = |tree: &str| {
            let name = |(_, name, _)| std::string::String::from_utf8(name).unwrap();
            let events = events(&assembled(tree))?;
            Some(events.into_iter().map(name).collect::<Vec<_>>().join(" "))
        };
        for (tree, expected) in [
            ("< > .", ""),
            ("< a b <c d > <e > > .", "a b c d  e "),
            ("< <c d <deep e <deeper f > > > > .", "c d "),
            ("< <c <deep e > <deep f > > <g h > > .", "c  g h "),
        ] {
            assert_eq!(names(tree).as_deref(), Some(expected), "{tree}");
        }
        for tree in [
            ".",
            "< >",
            "< .",
            "< <c > .",
            "> .",
            "< > > .",
            "a < > .",
            "< > a .",
            "<root > .",
            "< > < > .",
            "< > <c > .",
            "< <c > a > .",
            "< <c <deep > d > > .",
            "< <c <deep <deeper > e > > > .",
        ] {
            assert_eq!(names(tree), None, "{tree}");
        }
    }

    proptest! {
        /// What a general reader accepts is read alike; anything else does not panic.
        #[test]
        fn damaged_trees_are_refused_or_read_alike(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            len in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let mut tree = tree();
            for (index, value) in changes {
                let index = index.index(tree.len());
                tree[index] = value;
            }
            if cut {
                tree.truncate(len.index(tree.len()));
            }
            let found = events(&tree);
            if let (Some(found), Some(expected)) = (found, expected(&tree)) {
                prop_assert_eq!(found, expected);
            }
        }
    }
}
