//! Prints how many bytes of stack each call takes.

fn main() {
    for (call, bytes) in kho_benches::calls::stack() {
        println!("{call}\t{bytes}");
    }
}
