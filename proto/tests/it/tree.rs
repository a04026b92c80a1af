//! All contracts, including those of stored messages, walked as one list.

use std::fs;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    source_code_info::Location,
};

/// Compiles the contracts. That of bundles may change, because only roles of one release speak it.
pub(crate) fn files() -> Vec<FileDescriptorProto> {
    let root = env!("CARGO_MANIFEST_DIR");
    let packages = fs::read_dir(format!("{root}/till")).unwrap();
    let names = packages.map(|package| package.unwrap().file_name().into_string().unwrap());
    let published = names.filter(|name| name != "bundle");
    let mut compiler = protox::Compiler::new([root]).unwrap();
    compiler.include_source_info(true).include_imports(true);
    compiler
        .open_files(published.map(|name| format!("{root}/till/{name}/v1/{name}.proto")))
        .unwrap();
    let set: FileDescriptorSet = compiler.file_descriptor_set();
    set.file
}

/// A message with its full name and the path to its comments.
pub(crate) struct Message<'a> {
    pub(crate) name: String,
    pub(crate) path: Vec<i32>,
    pub(crate) inner: &'a DescriptorProto,
}

/// An enum with its full name and the path to its comments.
pub(crate) struct Enum<'a> {
    pub(crate) name: String,
    pub(crate) path: Vec<i32>,
    pub(crate) inner: &'a EnumDescriptorProto,
}

/// Every message and enum of a file, nested ones included; generated map entries are left out.
pub(crate) fn types(file: &FileDescriptorProto) -> (Vec<Message<'_>>, Vec<Enum<'_>>) {
    let (mut messages, mut enums) = (Vec::new(), Vec::new());
    let package = file.package().to_owned();
    for (index, message) in (0..).zip(&file.message_type) {
        walk(&package, vec![4, index], message, &mut messages, &mut enums);
    }
    for (index, r#enum) in (0..).zip(&file.enum_type) {
        let name = format!("{package}.{}", r#enum.name());
        enums.push(Enum { name, path: vec![5, index], inner: r#enum });
    }
    (messages, enums)
}

fn walk<'a>(
    scope: &str,
    path: Vec<i32>,
    message: &'a DescriptorProto,
    messages: &mut Vec<Message<'a>>,
    enums: &mut Vec<Enum<'a>>,
) {
    let name = format!("{scope}.{}", message.name());
    let nested = |number: i32, index: i32| [path.as_slice(), &[number, index]].concat();
    for (index, inner) in (0..).zip(&message.nested_type) {
        if !inner.options.as_ref().is_some_and(MessageOptions::map_entry) {
            walk(&name, nested(3, index), inner, messages, enums);
        }
    }
    for (index, r#enum) in (0..).zip(&message.enum_type) {
        let name = format!("{name}.{}", r#enum.name());
        enums.push(Enum { name, path: nested(4, index), inner: r#enum });
    }
    messages.push(Message { name, path, inner: message });
}

/// The leading comment of the element at a path.
pub(crate) fn comment<'a>(file: &'a FileDescriptorProto, path: &[i32]) -> &'a str {
    let locations = file.source_code_info.as_ref().map(|info| info.location.as_slice());
    let at = locations.unwrap_or_default().iter().find(|location| location.path == path);
    at.map(Location::leading_comments).unwrap_or_default().trim()
}
