//! stub
mod proto;
fn main() { proto::run(std::path::Path::new("."), proto::Mode::Write).unwrap(); }
