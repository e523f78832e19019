//! The example of a live update, as it is run.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test panics when it fails"
)]

mod common;

#[test]
fn the_dma_never_breaks_and_what_is_refused_is_told() {
    let output = common::example("live-update", [""; 0]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "cold boot    142 writes",
        "outgoing     7 functions for 3 of the guest's",
        "incoming     7 of 8 functions",
        "FINISH       one interrupt each for 0000:03:00.0 0000:00:05.0 0000:00:05.1",
        "  Command: Bus Master: stops the DMA of the function, on a bridge of everything below",
        "  Primary, Secondary, Subordinate Bus: requester IDs and the routing of completions; the IOMMU knows them",
        "  SR-IOV Control: VF Enable: all virtual functions vanish with their DMA",
        "after FINISH 142 writes, 0 refused",
        "the DMA never broke",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no line {line:?}:\n{text}"
        );
    }
}
