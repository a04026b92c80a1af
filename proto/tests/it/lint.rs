//! buf's STANDARD lint rules, under buf's own names, plus one of ours: everything is commented.

use std::collections::BTreeSet;

use prost_types::EnumValueDescriptorProto;

use crate::tree::{comment, files, types};

fn is_lower_snake(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !text.starts_with('_')
        && !text.ends_with('_')
        && !text.contains("__")
}

fn is_upper_snake(text: &str) -> bool {
    is_lower_snake(&text.to_lowercase()) && text == text.to_uppercase()
}

fn is_pascal(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.chars().all(|character| character.is_ascii_alphanumeric())
}

fn upper_snake(pascal: &str) -> String {
    let mut text = String::new();
    for character in pascal.chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_uppercase());
    }
    text
}

#[test]
#[expect(clippy::too_many_lines, reason = "buf's rules one after another, under their names")]
fn contracts_follow_bufs_standard_rules() {
    let mut findings = Vec::new();
    let mut request_types = BTreeSet::new();
    for file in files() {
        let mut find = |rule: &str, what: &str| findings.push(format!("{rule}: {what}"));
        let (name, package) = (file.name(), file.package());
        let (directory, base) = name.rsplit_once('/').unwrap_or(("", name));
        if directory != package.replace('.', "/") {
            find("PACKAGE_DIRECTORY_MATCH", name);
        }
        if !package.split('.').all(is_lower_snake) {
            find("PACKAGE_LOWER_SNAKE_CASE", package);
        }
        let version = package.rsplit('.').next().and_then(|last| last.strip_prefix('v'));
        if version.and_then(|number| number.parse::<u32>().ok()).is_none() {
            find("PACKAGE_VERSION_SUFFIX", package);
        }
        if !is_lower_snake(base.trim_end_matches(".proto")) {
            find("FILE_LOWER_SNAKE_CASE", name);
        }
        if file.syntax() != "proto3" {
            find("SYNTAX_SPECIFIED", name);
        }
        if !file.public_dependency.is_empty() || !file.weak_dependency.is_empty() {
            find("IMPORT_NO_PUBLIC", name);
        }
        let (messages, enums) = types(&file);
        for message in &messages {
            if !is_pascal(message.inner.name()) {
                find("MESSAGE_PASCAL_CASE", &message.name);
            }
            for field in &message.inner.field {
                if !is_lower_snake(field.name()) {
                    find("FIELD_LOWER_SNAKE_CASE", &format!("{}.{}", message.name, field.name()));
                }
            }
            for oneof in &message.inner.oneof_decl {
                if !is_lower_snake(oneof.name()) {
                    find("ONEOF_LOWER_SNAKE_CASE", &format!("{}.{}", message.name, oneof.name()));
                }
            }
        }
        for r#enum in &enums {
            if !is_pascal(r#enum.inner.name()) {
                find("ENUM_PASCAL_CASE", &r#enum.name);
            }
            let prefix = format!("{}_", upper_snake(r#enum.inner.name()));
            for value in &r#enum.inner.value {
                let full = format!("{}.{}", r#enum.name, value.name());
                if !is_upper_snake(value.name()) {
                    find("ENUM_VALUE_UPPER_SNAKE_CASE", &full);
                }
                if !value.name().starts_with(&prefix) {
                    find("ENUM_VALUE_PREFIX", &full);
                }
                if (value.number() == 0) != value.name().ends_with("_UNSPECIFIED") {
                    find("ENUM_ZERO_VALUE_SUFFIX", &full);
                }
            }
            if r#enum.inner.value.first().map(EnumValueDescriptorProto::number) != Some(0) {
                find("ENUM_FIRST_VALUE_ZERO", &r#enum.name);
            }
        }
        for service in &file.service {
            if !is_pascal(service.name()) {
                find("SERVICE_PASCAL_CASE", service.name());
            }
            if !service.name().ends_with("Service") {
                find("SERVICE_SUFFIX", service.name());
            }
            for method in &service.method {
                let full = format!("{}.{}", service.name(), method.name());
                if !is_pascal(method.name()) {
                    find("RPC_PASCAL_CASE", &full);
                }
                if method.input_type() != format!(".{package}.{}Request", method.name()) {
                    find("RPC_REQUEST_STANDARD_NAME", &full);
                }
                if method.output_type() != format!(".{package}.{}Response", method.name()) {
                    find("RPC_RESPONSE_STANDARD_NAME", &full);
                }
                for used in [method.input_type(), method.output_type()] {
                    if !request_types.insert(used.to_owned()) {
                        find("RPC_REQUEST_RESPONSE_UNIQUE", &full);
                    }
                }
            }
        }
    }
    assert_eq!(findings, Vec::<String>::new());
}

#[test]
fn everything_in_a_contract_is_commented() {
    let mut bare = Vec::new();
    for file in files() {
        let mut check = |path: &[i32], what: String| {
            if comment(&file, path).len() < 5 {
                bare.push(what);
            }
        };
        let under = |path: &[i32], number: i32, index: i32| [path, &[number, index]].concat();
        let (messages, enums) = types(&file);
        for message in &messages {
            check(&message.path, message.name.clone());
            for (index, field) in (0..).zip(&message.inner.field) {
                let path = under(&message.path, 2, index);
                check(&path, format!("{}.{}", message.name, field.name()));
            }
            for (index, oneof) in (0..).zip(&message.inner.oneof_decl) {
                let path = under(&message.path, 8, index);
                check(&path, format!("{}.{}", message.name, oneof.name()));
            }
        }
        for r#enum in &enums {
            check(&r#enum.path, r#enum.name.clone());
            for (index, value) in (0..).zip(&r#enum.inner.value) {
                check(&under(&r#enum.path, 2, index), value.name().to_owned());
            }
        }
        for (at, service) in (0..).zip(&file.service) {
            check(&[6, at], service.name().to_owned());
            for (index, method) in (0..).zip(&service.method) {
                let path = under(&[6, at], 2, index);
                check(&path, format!("{}.{}", service.name(), method.name()));
            }
        }
    }
    assert_eq!(bare, Vec::<String>::new());
}
