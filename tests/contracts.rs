//! The wire contracts stand as they were given: every package, service,
//! method, message, field and enum of `golden/contracts.txt` is in `proto/`
//! identically, and what is in those packages besides is numbered from 1000 up.

use pillarbox::proto::DESCRIPTORS;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, field_descriptor_proto::Label,
};
use std::collections::BTreeSet;

const GOLDEN: &str = include_str!("golden/contracts.txt");
/// What the service generator made of `chat.Chat`.
const CHAT: &str = include_str!(concat!(env!("OUT_DIR"), "/chat.rs"));
const FIRST_OF_OURS: i32 = 1000;

fn golden() -> BTreeSet<String> {
    GOLDEN.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn compiled() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the build made it");
    let mut lines = BTreeSet::new();
    set.file.iter().for_each(|file| describe_file(file, &mut lines));
    lines
}

fn describe_file(file: &FileDescriptorProto, lines: &mut BTreeSet<String>) {
    let package = file.package();
    lines.insert(format!("package {package} {}", file.syntax()));
    file.message_type.iter().for_each(|message| describe_message(package, message, lines));
    file.enum_type.iter().for_each(|it| describe_enum(package, it, lines));
    for service in &file.service {
        let name = format!("{package}.{}", service.name());
        lines.insert(format!("service {name}"));
        lines.extend(service.method.iter().map(|method| describe_method(&name, method)));
    }
}

fn describe_method(service: &str, method: &MethodDescriptorProto) -> String {
    let stream = |yes: bool| if yes { "stream " } else { "" };
    let (request, response) =
        (method.input_type().trim_start_matches('.'), method.output_type().trim_start_matches('.'));
    let (asks, answers) = (stream(method.client_streaming()), stream(method.server_streaming()));
    format!("method {service}/{} ({asks}{request}) returns ({answers}{response})", method.name())
}

fn describe_message(scope: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    lines.insert(format!("message {name}"));
    lines.extend(message.field.iter().map(|field| describe_field(&name, message, field)));
    message.enum_type.iter().for_each(|it| describe_enum(&name, it, lines));
    message.nested_type.iter().for_each(|nested| describe_message(&name, nested, lines));
}

fn describe_field(name: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.type_name() {
        "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        qualified => qualified.trim_start_matches('.').to_owned(),
    };
    let label = match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => "repeated ",
        (_, true) => "optional ",
        _ => "",
    };
    let mut line = format!("field {name} {} {label}{kind} {}", field.number(), field.name());
    if let (Some(index), false) = (field.oneof_index, field.proto3_optional()) {
        let index = usize::try_from(index).expect("descriptors count from 0");
        line.push_str(&format!(" oneof {}", message.oneof_decl[index].name()));
    }
    line
}

fn describe_enum(scope: &str, it: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", it.name());
    lines.insert(format!("enum {name}"));
    lines.extend(it.value.iter().map(|value| format!("value {name} {} {}", value.number(), value.name())));
}

/// May this line stand in `proto/` though the contracts do not have it?
fn may_be_added(line: &str) -> bool {
    let mut words = line.split(' ');
    let (kind, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if name.starts_with("pillarbox.") {
        return true;
    }
    // A service, method or message of ours has no business in a package of others.
    let number = words.next().and_then(|number| number.parse::<i32>().ok());
    matches!(kind, "field" | "value") && number.is_some_and(|number| number >= FIRST_OF_OURS)
}

#[test]
fn every_contract_is_kept_exactly() {
    let golden = golden();
    assert!(golden.len() > 500, "the golden list is cut short: {} lines", golden.len());
    let compiled = compiled();
    let lost: Vec<_> = golden.difference(&compiled).collect();
    assert!(lost.is_empty(), "changed or missing in proto/: {lost:#?}");
}

#[test]
fn additions_are_numbered_from_1000_or_in_packages_of_ours() {
    let golden = golden();
    let compiled = compiled();
    let forbidden: Vec<_> = compiled.difference(&golden).filter(|line| !may_be_added(line)).collect();
    assert!(forbidden.is_empty(), "neither in the contracts nor numbered from 1000 up: {forbidden:#?}");
}

#[test]
fn an_addition_below_1000_would_be_caught() {
    for (line, allowed) in [
        ("field protocol.sync.v1.PullRequest 999 uint64 waiting", false),
        ("field protocol.sync.v1.PullRequest 1000 uint64 waiting", true),
        ("value pbx.Crud 7 OTHER", false),
        ("message protocol.sync.v1.State", false),
        ("method chat.Chat/Other (chat.Message) returns (chat.Message)", false),
        ("package chat.v2 proto3", false),
        ("field pillarbox.admin.v1.DeadLetter 1 uint64 id", true),
    ] {
        assert_eq!(may_be_added(line), allowed, "{line}");
    }
}

#[test]
fn every_file_of_proto_is_compiled() {
    fn walk(dir: &std::path::Path, found: &mut BTreeSet<String>, root: &std::path::Path) {
        for entry in std::fs::read_dir(dir).expect("proto/ can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found, root);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                found.insert(path.strip_prefix(root).expect("below the root").display().to_string());
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut files = BTreeSet::new();
    walk(&root, &mut files, &root);
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the build made it");
    let compiled: BTreeSet<_> =
        set.file.iter().map(|file| file.name().to_owned()).filter(|name| !name.starts_with("google/")).collect();
    assert_eq!(compiled, files);
}

#[test]
fn methods_renamed_in_rust_keep_their_names_on_the_wire() {
    // Once where the client calls, once where the server takes the call.
    for path in ["\"/chat.Chat/New\"", "\"/chat.Chat/Connect\"", "\"/chat.Chat/Send\"", "\"/chat.Chat/History\""] {
        assert!(CHAT.matches(path).count() >= 2, "{path} is not on the wire any more");
    }
    assert!(!CHAT.contains("/chat.Chat/NewChat") && !CHAT.contains("/chat.Chat/new_chat"));
}
