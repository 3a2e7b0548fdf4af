//! Tests of `net/hrpc/methods`.

use super::*;
use prost_types::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};

#[test]
fn the_contracts_say_which_paths_are_streams() {
    let methods = Methods::of(&[crate::proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]).unwrap();
    for (path, shape) in [
        ("/protocol.auth.v1.AuthService/Key", Shape::Unary),
        ("/protocol.sync.v1.PostboxService/Push", Shape::Unary),
        ("/chat.Chat/New", Shape::Unary),
        ("/galaxy.backend.push.v1.Push/SubscribePush", Shape::Streaming),
        ("/pbx.Node/MessageLoop", Shape::Streaming),
        ("/grpc.health.v1.Health/Check", Shape::Unary),
        ("/grpc.health.v1.Health/Watch", Shape::Streaming),
        ("/protocol.auth.v1.AuthService/StreamSteps", Shape::Unknown),
        ("/protocol.auth.v1.AuthService/Key/", Shape::Unknown),
        ("/", Shape::Unknown),
    ] {
        assert_eq!(methods.shape(path), shape, "{path}");
    }
}

#[test]
fn a_contract_without_a_package_has_no_dot_in_its_paths() {
    let method = MethodDescriptorProto { name: Some("M".into()), ..Default::default() };
    let service = ServiceDescriptorProto { name: Some("S".into()), method: vec![method], ..Default::default() };
    let file = FileDescriptorProto { service: vec![service], ..Default::default() };
    let methods = Methods::of(&[&FileDescriptorSet { file: vec![file] }.encode_to_vec()]).unwrap();
    assert_eq!(methods.shape("/S/M"), Shape::Unary);
}

#[test]
fn bytes_that_are_no_descriptors_are_an_error() {
    assert!(matches!(Methods::of(&[b"\xff\xff"]), Err(Error::Internal(_))));
}
