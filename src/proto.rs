//! Generated code of the wire contracts (floor 0), one module a package.
//!
//! Never edited by hand: `build.rs` makes it from `proto/`.
#![allow(missing_docs, clippy::all)]

pub mod chat {
    include!(concat!(env!("OUT_DIR"), "/chat.rs"));
}
pub mod galaxy {
    pub mod backend {
        pub mod push {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/galaxy.backend.push.v1.rs"));
            }
        }
    }
}
pub mod mpc {
    pub mod router {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/mpc.router.v1.rs"));
        }
    }
}
pub mod pbx {
    include!(concat!(env!("OUT_DIR"), "/pbx.rs"));
}
pub mod pillarbox {
    pub mod admin {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/pillarbox.admin.v1.rs"));
        }
    }
    pub mod chat {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/pillarbox.chat.v1.rs"));
        }
    }
    pub mod federation {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/pillarbox.federation.v1.rs"));
        }
    }
    pub mod postbox {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/pillarbox.postbox.v1.rs"));
        }
    }
    pub mod push {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/pillarbox.push.v1.rs"));
        }
    }
    pub mod relay {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/pillarbox.relay.v1.rs"));
        }
    }
}
pub mod protocol {
    pub mod auth {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/protocol.auth.v1.rs"));
        }
    }
    pub mod harmonytypes {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/protocol.harmonytypes.v1.rs"));
        }
    }
    pub mod sync {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/protocol.sync.v1.rs"));
        }
    }
}

/// The serialized `FileDescriptorSet` of everything in `proto/`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
