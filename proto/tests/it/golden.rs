//! Published names and numbers never change (E1): every line of the golden dump must remain. A new
//! line must be added to it on purpose (`UPDATE_GOLDEN=1 cargo test -p proto`).

use std::{fmt::Write as _, fs};

use prost_types::field_descriptor_proto::Label;

use crate::tree::{files, types};

fn dump() -> String {
    let mut lines = Vec::new();
    for file in files() {
        let (messages, enums) = types(&file);
        for message in messages {
            for field in &message.inner.field {
                let mut line = format!("{} {} {}", message.name, field.number(), field.name());
                // Writing to a String cannot fail.
                write!(line, " {}", field.r#type().as_str_name()).unwrap();
                if field.label() == Label::Repeated {
                    line.push_str(" repeated");
                }
                if !field.type_name().is_empty() {
                    write!(line, " {}", field.type_name()).unwrap();
                }
                if let Some(index) = field.oneof_index {
                    let at = usize::try_from(index).unwrap();
                    write!(line, " oneof {}", message.inner.oneof_decl[at].name()).unwrap();
                }
                lines.push(line);
            }
        }
        for r#enum in enums {
            for value in &r#enum.inner.value {
                lines.push(format!("{} {} {}", r#enum.name, value.number(), value.name()));
            }
        }
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                let (input, output) = (method.input_type(), method.output_type());
                let streams = (method.client_streaming(), method.server_streaming());
                lines.push(format!("{name} {input} {output} {streams:?}"));
            }
        }
    }
    lines.sort();
    lines.push(String::new());
    lines.join("\n")
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test's own switch")]
fn no_published_name_or_number_changes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/descriptor.txt");
    let now = dump();
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        fs::write(path, &now).unwrap();
    }
    let golden = fs::read_to_string(path).unwrap();
    let gone: Vec<_> = golden.lines().filter(|line| !now.lines().any(|new| new == *line)).collect();
    assert_eq!(gone, Vec::<&str>::new(), "these were published: clients break without them");
    let new: Vec<_> = now.lines().filter(|line| !golden.lines().any(|old| old == *line)).collect();
    assert_eq!(new, Vec::<&str>::new(), "published from now on? then UPDATE_GOLDEN=1");
}
