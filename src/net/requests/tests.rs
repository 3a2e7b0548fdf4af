//! Only the library's own refusals are reworded. (Real ones: `tests/nodes`.)

use super::*;

#[test]
fn a_method_s_own_status_stays() {
    for status in [
        Status::internal("database: broken"),
        Status::out_of_range("cursor: 7 was never given"),
        Status::not_found("failed to decode Protobuf message: no"),
    ] {
        let answer = reworded(status.clone().into_http());
        let found = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!((found.code(), found.message()), (status.code(), status.message()));
    }
    assert!(!reworded(Response::new(Body::empty())).headers().contains_key("grpc-status"));
}
