//! The state tree of series v5, and who is told of its fate.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

use std::cell::RefCell;
use std::rc::Rc;

use kho_core::outgoing::{Notifier, OutgoingError, StateTree, Value};

#[test]
fn nodes_and_properties_come_and_go() {
    let mut tree = StateTree::new();
    tree.add_node(&[], "a").unwrap();
    tree.add_node(&["a"], "b").unwrap();
    tree.add_property(&["a", "b"], "s", Value::Str("text"))
        .unwrap();
    tree.add_property(&["a", "b"], "n", Value::U32(0x0102_0304))
        .unwrap();
    tree.add_property(&["a", "b"], "w", Value::U64(1)).unwrap();
    tree.add_property(&[], "r", Value::Bytes(&[7; 3])).unwrap();
    assert_eq!(tree.property(&["a", "b"], "s"), Some(&b"text\0"[..]));
    assert_eq!(
        tree.property(&["a", "b"], "n"),
        Some(&[4, 3, 2, 1][..]),
        "native"
    );
    assert_eq!(
        tree.property(&["a", "b"], "w"),
        Some(&[1, 0, 0, 0, 0, 0, 0, 0][..])
    );
    assert_eq!(tree.property(&[], "r"), Some(&[7, 7, 7][..]));

    assert_eq!(tree.add_node(&[], "a"), Err(OutgoingError::Exists));
    assert_eq!(
        tree.add_property(&["a", "b"], "s", Value::U32(1)),
        Err(OutgoingError::Exists)
    );
    assert_eq!(tree.add_node(&["x"], "a"), Err(OutgoingError::Unknown));
    assert_eq!(tree.remove_node(&["a"], "x"), Err(OutgoingError::Unknown));
    assert_eq!(
        tree.remove_property(&["a"], "s"),
        Err(OutgoingError::Unknown)
    );
    tree.add_node(&[], "a-name-that-is-of-just-31-bytes")
        .unwrap();
    for bad in ["", "a/b", "a name", "a-name-that-is-32-bytes-in-length"] {
        assert!(
            matches!(tree.add_node(&[], bad), Err(OutgoingError::Name(_))),
            "{bad:?}"
        );
    }

    tree.remove_property(&["a", "b"], "s").unwrap();
    assert_eq!(tree.property(&["a", "b"], "s"), None);
    tree.remove_node(&[], "a").unwrap();
    assert_eq!(tree.property(&["a", "b"], "n"), None, "all below is gone");
    tree.add_node(&[], "a").unwrap();
    assert_eq!(tree.property(&["a", "b"], "n"), None);
}

#[test]
fn nesting_is_bounded_by_what_readers_take() {
    let mut tree = StateTree::new();
    let mut path = Vec::new();
    let error = loop {
        match tree.add_node(&path, "n") {
            Ok(()) => path.push("n"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, OutgoingError::TooMany { max: 60 });
    assert_eq!(path.len(), 60);
}

struct Logged {
    name: &'static str,
    refuse: bool,
    log: Rc<RefCell<Vec<String>>>,
}

impl Notifier for Logged {
    fn finalize(&mut self, tree: &mut StateTree) -> Result<(), OutgoingError> {
        if self.refuse {
            return Err(OutgoingError::Refused(9));
        }
        self.log
            .borrow_mut()
            .push(format!("finalize {}", self.name));
        tree.add_node(&[], self.name)
    }

    fn abort(&mut self, tree: &mut StateTree) {
        self.log.borrow_mut().push(format!("abort {}", self.name));
        tree.remove_node(&[], self.name).unwrap();
    }
}

#[test]
fn notifiers_are_told_in_order_and_undone_in_reverse() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let take = || log.borrow_mut().drain(..).collect::<Vec<_>>();
    let notifier = |name, refuse| Logged {
        name,
        refuse,
        log: Rc::clone(&log),
    };
    let (mut a, mut b, mut c) = (
        notifier("a", false),
        notifier("b", false),
        notifier("c", true),
    );
    let mut tree = StateTree::new();
    let refused = tree.finalize(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(refused, Err(OutgoingError::Refused(9)));
    assert_eq!(take(), ["finalize a", "finalize b", "abort b", "abort a"]);
    assert!(!tree.is_finalized());
    tree.add_node(&[], "still-open").unwrap();

    c.refuse = false;
    tree.finalize(&mut [&mut a, &mut b, &mut c]).unwrap();
    assert_eq!(take(), ["finalize a", "finalize b", "finalize c"]);
    assert!(tree.is_finalized());
    let busy = Err(OutgoingError::Busy);
    assert_eq!(tree.add_node(&[], "late"), busy);
    assert_eq!(tree.remove_node(&[], "a"), busy);
    assert_eq!(tree.add_property(&[], "late", Value::U32(1)), busy);
    assert_eq!(tree.remove_property(&[], "late"), busy);
    assert_eq!(tree.finalize(&mut []), busy);

    tree.abort(&mut [&mut a, &mut b, &mut c]).unwrap();
    assert_eq!(take(), ["abort a", "abort b", "abort c"]);
    assert_eq!(tree.abort(&mut []), Err(OutgoingError::Unknown));
    tree.add_node(&[], "open-again").unwrap();
}
