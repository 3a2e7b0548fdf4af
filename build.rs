//! Compiles `proto/` with protox (no `protoc` on the user's machine) and
//! generates the Rust of floor 0.
//!
//! Three departures from the stock generators:
//! - `chat.Chat` has methods `New` and `Connect`, whose Rust names collide with
//!   the generated client's own; they become `new_chat` and `connect_chat`
//!   here, the wire names stay.
//! - An event's bytes must be kept as they came (prost drops what it does not
//!   know), and a postbox token signs the request's bytes. So the fields of type
//!   `Event` are generated as `bytes`, which read the same wire, and
//!   `PostboxService` takes and gives raw messages. The descriptor that the
//!   reflection service hands out is the unchanged one.
//! - `Courier`, of which each peer has a stream, gets a codec of small buffers.

use prost::Message;
use prost_build::{Method, Service, ServiceGenerator};
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};
use std::{env, error::Error, fs, path::PathBuf};

const FILES: &[&str] = &[
    "chat/chat.proto",
    "galaxy/backend/push/v1/push.proto",
    "mpc/router/v1/message_router.proto",
    "pbx/model.proto",
    "pillarbox/admin/v1/admin.proto",
    "pillarbox/chat/v1/chat.proto",
    "pillarbox/federation/v1/federation.proto",
    "pillarbox/postbox/v1/mailroom.proto",
    "pillarbox/push/v1/push.proto",
    "pillarbox/relay/v1/relay.proto",
    "pillarbox/relay/v1/sessions.proto",
    "protocol/auth/v1/auth.proto",
    "protocol/harmonytypes/v1/types.proto",
    "protocol/sync/v1/sync.proto",
];

const EVENT: &str = ".protocol.sync.v1.Event";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let set = protox::compile(FILES, ["proto"])?;
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;

    let mut config = prost_build::Config::new();
    config
        .bytes(["."])
        .service_generator(Box::new(Services {
            stock: tonic_prost_build::configure().service_generator(),
            raw: tonic_prost_build::configure().codec_path("crate::net::codec::RawCodec").service_generator(),
            lean: tonic_prost_build::configure().codec_path("crate::net::codec::LeanCodec").service_generator(),
        }))
        .compile_fds(with_raw_events(set))?;
    Ok(())
}

/// Fields that hold an event become `bytes`.
fn with_raw_events(mut set: FileDescriptorSet) -> FileDescriptorSet {
    for field in set
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
        .flat_map(|message| &mut message.field)
        .filter(|field| field.type_name() == EVENT)
    {
        field.type_name = None;
        field.set_type(Type::Bytes);
    }
    set
}

struct Services {
    stock: Box<dyn ServiceGenerator>,
    raw: Box<dyn ServiceGenerator>,
    lean: Box<dyn ServiceGenerator>,
}

impl ServiceGenerator for Services {
    fn generate(&mut self, mut service: Service, buf: &mut String) {
        let inner = match (service.package.as_str(), service.proto_name.as_str()) {
            ("chat", "Chat") => {
                service.methods.iter_mut().for_each(rename);
                &mut self.stock
            }
            ("protocol.sync.v1", "PostboxService") => {
                for method in &mut service.methods {
                    method.input_type = "::bytes::Bytes".into();
                    method.output_type = "::bytes::Bytes".into();
                }
                &mut self.raw
            }
            ("pillarbox.federation.v1", "Courier") => &mut self.lean,
            _ => &mut self.stock,
        };
        inner.generate(service, buf);
    }

    fn finalize(&mut self, buf: &mut String) {
        self.stock.finalize(buf);
    }

    fn finalize_package(&mut self, package: &str, buf: &mut String) {
        self.stock.finalize_package(package, buf);
    }
}

fn rename(method: &mut Method) {
    if matches!(method.proto_name.as_str(), "New" | "Connect") {
        method.name.push_str("_chat");
    }
}
