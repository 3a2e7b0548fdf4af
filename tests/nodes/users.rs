//! Users and their sessions on a real node, over the operator's socket and as
//! callers see them.

use crate::common::TestNode;
use futures_util::future::join_all;
use pillarbox::{
    admin::client::Client,
    proto::{
        mpc::router::v1::{HeartbeatRequest, message_router_client::MessageRouterClient},
        pillarbox::admin::v1::{
            AddUserRequest, DeleteUserRequest, DisableUserRequest, EnableUserRequest, ListSessionsRequest,
            ListTokensRequest, ListUsersRequest, NewTokenRequest, RevokeSessionsRequest, TokenInfo, UserInfo,
        },
    },
    types::UserId,
};
use tonic::{Code, Request, Status};

/// What the router says to the caller behind a token. It takes no users, so
/// `PermissionDenied` says that the caller was known.
async fn call(node: &TestNode, token: &str, agent: &str) -> Status {
    let link = node.dial(false).await;
    let origin = link.origin();
    let mut request = Request::new(HeartbeatRequest { party_id: "alice".into(), timestamp: 0 });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request.metadata_mut().insert("user-agent", agent.parse().unwrap());
    MessageRouterClient::with_origin(link, origin).heartbeat(request).await.unwrap_err()
}

async fn sign_in(operator: &mut Client, user: &str) -> (String, String) {
    let request = NewTokenRequest { principal: format!("user:{user}"), ttl: 60, user: String::new() };
    let issued = operator.new_token(request).await.unwrap().into_inner();
    (issued.token, issued.id)
}

async fn users(operator: &mut Client, deleted: bool) -> Vec<UserInfo> {
    let mut list = operator.list_users(ListUsersRequest { deleted }).await.unwrap().into_inner();
    let mut users = vec![];
    while let Some(user) = list.message().await.unwrap() {
        users.push(user);
    }
    users
}

async fn sessions(operator: &mut Client, user: &str) -> Vec<TokenInfo> {
    operator.list_sessions(ListSessionsRequest { user: user.into() }).await.unwrap().into_inner().sessions
}

async fn revoke(operator: &mut Client, user: &str, id: &str) -> Result<u64, Status> {
    let request = RevokeSessionsRequest { user: user.into(), id: id.into() };
    operator.revoke_sessions(request).await.map(|answer| answer.into_inner().revoked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_sessions_outlive_a_restart() {
    let mut node = TestNode::start().await;
    let mut operator = node.operator().await;
    let added = operator.add_user(AddUserRequest { name: "Alice".into() }).await.unwrap().into_inner();
    assert_eq!((added.name.as_str(), added.state.as_str()), ("Alice", "active"));
    added.id.parse::<UserId>().unwrap();
    let (token, id) = sign_in(&mut operator, "Alice").await;
    let (other, _) = sign_in(&mut operator, "alice").await;
    operator.disable_user(DisableUserRequest { name: "alice".into() }).await.unwrap();
    sign_in(&mut operator, "gone").await;
    let ended = operator.delete_user(DeleteUserRequest { name: "gone".into() }).await.unwrap().into_inner();
    assert_eq!(ended.sessions, 1);
    assert_eq!(call(&node, &token, "phone/2").await.code(), Code::PermissionDenied);
    let (before, devices) = (users(&mut operator, true).await, sessions(&mut operator, "Alice").await);
    let states: Vec<_> = before.iter().map(|user| (user.name.as_str(), user.state.as_str())).collect();
    assert_eq!(states, [("Alice", "active"), ("alice", "disabled"), ("gone", "deleted")]);
    assert_eq!((devices[0].id.as_str(), devices[0].user_agent.as_str()), (id.as_str(), "phone/2"));
    assert!(devices[0].last_used_at >= devices[0].created_at && devices[0].expires_at > devices[0].created_at);

    node.stop().await;
    node.start_again().await;
    let mut operator = node.operator().await;
    assert_eq!(users(&mut operator, true).await, before);
    assert_eq!(users(&mut operator, false).await, before[..2]);
    assert_eq!(sessions(&mut operator, "Alice").await, devices);
    assert_eq!(call(&node, &token, "phone/2").await.code(), Code::PermissionDenied);
    assert_eq!(call(&node, &other, "phone/2").await.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_user_is_told_and_comes_back_and_a_deleted_one_does_not() {
    let node = TestNode::start().await;
    let mut operator = node.operator().await;
    let (token, _) = sign_in(&mut operator, "alice").await;
    for _ in 0..2 {
        assert_eq!(call(&node, &token, "x").await.code(), Code::PermissionDenied);
        operator.disable_user(DisableUserRequest { name: "alice".into() }).await.unwrap();
        let refused = call(&node, &token, "x").await;
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("operator can enable it"), "{}", refused.message());
        let early = NewTokenRequest { principal: "user:alice".into(), ttl: 0, user: String::new() };
        let early = operator.new_token(early).await.unwrap_err();
        assert!(early.code() == Code::FailedPrecondition && early.message().contains("user enable alice"), "{early}");
        let back = operator.enable_user(EnableUserRequest { name: "alice".into() }).await.unwrap().into_inner();
        assert_eq!(back.state, "active");
    }
    operator.delete_user(DeleteUserRequest { name: "alice".into() }).await.unwrap();
    assert_eq!(call(&node, &token, "x").await.code(), Code::Unauthenticated);
    let taken = operator.add_user(AddUserRequest { name: "alice".into() }).await.unwrap_err();
    assert!(taken.code() == Code::AlreadyExists && taken.message().contains("deleted"), "{taken}");
    let gone = operator.enable_user(EnableUserRequest { name: "alice".into() }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(operator.list_tokens(ListTokensRequest {}).await.unwrap().into_inner().tokens.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_signed_out_of_one_session_or_of_all() {
    let node = TestNode::start().await;
    let mut operator = node.operator().await;
    let (one, id) = sign_in(&mut operator, "alice").await;
    let (two, _) = sign_in(&mut operator, "alice").await;
    let (bob, bobs) = sign_in(&mut operator, "bob").await;
    assert_eq!(revoke(&mut operator, "alice", &bobs).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(revoke(&mut operator, "alice", &id).await.unwrap(), 1);
    assert_eq!(call(&node, &one, "x").await.code(), Code::Unauthenticated);
    assert_eq!(call(&node, &two, "x").await.code(), Code::PermissionDenied);
    assert_eq!(revoke(&mut operator, "alice", "").await.unwrap(), 1);
    assert_eq!(call(&node, &two, "x").await.code(), Code::Unauthenticated);
    assert_eq!(call(&node, &bob, "x").await.code(), Code::PermissionDenied);
    let nobody = revoke(&mut operator, "carol", "").await.unwrap_err();
    assert!(nobody.code() == Code::NotFound && nobody.message().contains("user list"), "{nobody}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_made_at_once_for_a_new_name_are_one_users() {
    let node = TestNode::start().await;
    let operator = node.operator().await;
    let made = join_all((0..16).map(|_| {
        let mut operator = operator.clone();
        async move { sign_in(&mut operator, "alice").await }
    }));
    assert_eq!(made.await.len(), 16);
    let mut operator = operator.clone();
    assert_eq!(users(&mut operator, true).await.len(), 1);
    assert_eq!(sessions(&mut operator, "alice").await.len(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_users_that_takes_several_pages_is_whole_and_in_order() {
    let node = TestNode::start().await;
    let operator = node.operator().await;
    let names: Vec<String> = (0..1_003).map(|n| format!("u{n:04}")).collect();
    for some in names.chunks(64) {
        let added = some.iter().map(|name| {
            let mut operator = operator.clone();
            async move { operator.add_user(AddUserRequest { name: name.clone() }).await.unwrap() }
        });
        join_all(added).await;
    }
    let listed = users(&mut operator.clone(), false).await;
    assert_eq!(listed.into_iter().map(|user| user.name).collect::<Vec<_>>(), names);
}
