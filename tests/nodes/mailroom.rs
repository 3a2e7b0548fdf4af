//! The Mailroom as the homeserver behind a node uses it.

use crate::{
    common::{LONG, TestNode, event, faulty::Faulty, federate, number},
    eventually,
};
use pillarbox::{
    net::link::Link,
    proto::{
        pillarbox::postbox::v1::{
            ListGuildsRequest, ListInvitesRequest, PeersRequest, ReceiveRequest, Received, SendRequest,
            list_guilds_response::Guild, list_invites_response::Invite, mailroom_client::MailroomClient,
        },
        protocol::sync::v1::{
            Event,
            event::{Kind, UserInvited, UserRejectedInvite, UserRemovedFromGuild},
        },
    },
};
use prost::Message;
use tokio::time::timeout;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

struct Mailroom {
    client: MailroomClient<Link>,
    bearer: Option<MetadataValue<Ascii>>,
}

impl Mailroom {
    async fn of(node: &TestNode) -> Self {
        Self::acting_as(node, Some(node.bearer("service:homeserver").await)).await
    }

    async fn acting_as(node: &TestNode, bearer: Option<MetadataValue<Ascii>>) -> Self {
        let link = node.dial(false).await;
        let origin = link.origin();
        Self { client: MailroomClient::with_origin(link, origin), bearer }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    async fn send(&mut self, to: &str, events: Vec<bytes::Bytes>) -> Result<u64, Status> {
        let request = self.request(SendRequest { to: to.into(), events });
        self.client.send(request).await.map(|answer| answer.into_inner().first_number)
    }

    async fn receive(&mut self, cursor: u64) -> Result<Streaming<Received>, Status> {
        let request = self.request(ReceiveRequest { cursor });
        self.client.receive(request).await.map(tonic::Response::into_inner)
    }

    async fn guilds(&mut self, user_id: u64) -> Vec<Guild> {
        let request = self.request(ListGuildsRequest { user_id });
        self.client.list_guilds(request).await.unwrap().into_inner().guilds
    }

    async fn invites(&mut self, user_id: u64) -> Vec<Invite> {
        let request = self.request(ListInvitesRequest { user_id });
        self.client.list_invites(request).await.unwrap().into_inner().invites
    }
}

async fn next(stream: &mut Streaming<Received>) -> Result<Option<Received>, Status> {
    timeout(LONG, stream.message()).await.unwrap()
}

#[tokio::test]
async fn what_one_homeserver_sends_the_other_receives_first_what_is_kept_then_live() {
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    federate(&a, &b).await;
    let (mut sender, mut receiver) = (Mailroom::of(&a).await, Mailroom::of(&b).await);
    let first = sender.send(b.id.as_str(), vec![event(1), event(2)]).await.unwrap();
    assert!(sender.send(b.id.as_str(), vec![event(3)]).await.unwrap() > first);

    let mut stream = receiver.receive(0).await.unwrap();
    let mut cursors = vec![];
    for n in 1..=3 {
        let received = next(&mut stream).await.unwrap().unwrap();
        assert_eq!((number(&received.event), received.sender), (n, a.id.to_string()));
        assert!(received.received_at > 0);
        cursors.push(received.cursor);
    }
    sender.send(b.id.as_str(), vec![event(4)]).await.unwrap();
    assert_eq!(number(&next(&mut stream).await.unwrap().unwrap().event), 4);
    // From a cursor: what came after it.
    let mut stream = receiver.receive(cursors[1]).await.unwrap();
    assert_eq!(number(&next(&mut stream).await.unwrap().unwrap().event), 3);
}

#[tokio::test]
async fn a_cursor_that_was_never_given_is_out_of_range() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    faulty.push(&node, event(1)).await.unwrap();
    let mut mailroom = Mailroom::of(&node).await;
    let status = mailroom.receive(99).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(status.metadata().get("x-oldest-cursor").unwrap(), "0");
    let mut stream = mailroom.receive(0).await.unwrap();
    let newest = next(&mut stream).await.unwrap().unwrap().cursor;
    mailroom.receive(newest).await.unwrap();
}

#[tokio::test]
async fn a_reader_whose_token_is_revoked_is_told_at_once() {
    let node = TestNode::start().await;
    let mut events = Mailroom::of(&node).await.receive(0).await.unwrap();
    node.revoke("service:homeserver").await;
    let end = timeout(LONG, events.message()).await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated, "{end:?}");
}

#[tokio::test]
async fn only_a_service_may_use_it() {
    let node = TestNode::start().await;
    let cases = [
        (None, Code::Unauthenticated),
        (Some("Bearer pbt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap()), Code::Unauthenticated),
        (Some("Basic xyz".parse().unwrap()), Code::Unauthenticated),
        (Some(node.bearer("user:ann").await), Code::PermissionDenied),
        (Some(node.bearer("party:p1").await), Code::PermissionDenied),
        (Some(node.bearer("gateway:g1").await), Code::PermissionDenied),
        (Some(node.bearer("admin:root").await), Code::PermissionDenied),
    ];
    for (bearer, code) in cases {
        let mut mailroom = Mailroom::acting_as(&node, bearer).await;
        assert_eq!(mailroom.send("a.example:7443", vec![event(1)]).await.unwrap_err().code(), code);
        assert_eq!(mailroom.receive(0).await.unwrap_err().code(), code);
        let request = mailroom.request(PeersRequest {});
        assert_eq!(mailroom.client.peers(request).await.unwrap_err().code(), code);
        let request = mailroom.request(ListGuildsRequest { user_id: 1 });
        assert_eq!(mailroom.client.list_guilds(request).await.unwrap_err().code(), code);
        let request = mailroom.request(ListInvitesRequest { user_id: 1 });
        assert_eq!(mailroom.client.list_invites(request).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn bad_input_is_refused_with_its_code_and_a_text_that_names_the_field() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    let mut mailroom = Mailroom::of(&node).await;
    let known = faulty.id.as_str();
    let large = bytes::Bytes::from(vec![1; 65_537]);
    let cases = [
        ("nowhere", vec![event(1)], Code::InvalidArgument, "to: server id \"nowhere\""),
        ("a.example:0", vec![event(1)], Code::InvalidArgument, "port"),
        ("", vec![event(1)], Code::InvalidArgument, "to: "),
        (known, vec![], Code::InvalidArgument, "events"),
        (known, vec![bytes::Bytes::new()], Code::InvalidArgument, "events[0]"),
        (known, vec![event(1), b"\xff\xff".as_slice().into()], Code::InvalidArgument, "events[1]: not an Event"),
        (known, vec![b"\x0a\x05no".as_slice().into()], Code::InvalidArgument, "events[0]: not an Event"),
        (known, vec![event(1), large], Code::InvalidArgument, "events[1]"),
        ("a.example:7443", vec![event(1)], Code::FailedPrecondition, "peer add a.example:7443"),
    ];
    for (to, events, code, text) in cases {
        let status = mailroom.send(to, events).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?} does not say {text:?}");
    }
    assert_eq!((faulty.pushes(), node.peer(&faulty.id).queued().0), (0, 0));
}

#[tokio::test]
async fn guild_and_invite_lists_follow_what_other_servers_say_of_their_own() {
    let (node, one, two) = (TestNode::start().await, Faulty::start().await, Faulty::start().await);
    node.add(&one.id, one.key).await;
    node.add(&two.id, two.key).await;
    let mut mailroom = Mailroom::of(&node).await;
    let encode = |kind| bytes::Bytes::from(Event { kind: Some(kind) }.encode_to_vec());

    one.push(&node, event(5)).await.unwrap();
    one.push(&node, event(5)).await.unwrap();
    two.push(&node, event(5)).await.unwrap();
    let guild = |peer: &Faulty| Guild { guild_id: 7, server_id: peer.id.to_string() };
    let mut guilds = mailroom.guilds(5).await;
    guilds.sort_by(|a, b| a.server_id.cmp(&b.server_id));
    let mut both = vec![guild(&one), guild(&two)];
    both.sort_by(|a, b| a.server_id.cmp(&b.server_id));
    assert_eq!(guilds, both);
    // A server takes away its own guild, not another's of the same number.
    let removed = encode(Kind::UserRemovedFromGuild(UserRemovedFromGuild { user_id: 5, guild_id: 7 }));
    two.push(&node, removed.clone()).await.unwrap();
    two.push(&node, removed).await.unwrap();
    assert_eq!(mailroom.guilds(5).await, [guild(&one)]);
    assert!(mailroom.guilds(6).await.is_empty());

    let invited = UserInvited { user_id: 5, inviter_id: 9, invite_id: "i1".into() };
    one.push(&node, encode(Kind::UserInvited(invited))).await.unwrap();
    let invite = Invite { invite_id: "i1".into(), server_id: one.id.to_string(), inviter_id: 9 };
    assert_eq!(mailroom.invites(5).await, [invite]);
    // The user says no: the inviter's server hears of it, and the list forgets it.
    let rejected = UserRejectedInvite { guild_id: 7, user_id: 5, invite_id: "i1".into() };
    mailroom.send(one.id.as_str(), vec![encode(Kind::UserRejectedInvite(rejected))]).await.unwrap();
    assert!(mailroom.invites(5).await.is_empty());
    eventually!(one.pushes() == 1);
}

#[tokio::test]
async fn peers_tells_how_each_one_fares() {
    let (node, faulty) = (TestNode::start().await, Faulty::start().await);
    node.add(&faulty.id, faulty.key).await;
    faulty.on_push([crate::common::faulty::Reply::Fail(Code::PermissionDenied)]);
    node.send(&faulty.id, 0..3).await;
    eventually!(node.is_queued(&faulty.id).await);
    let mut mailroom = Mailroom::of(&node).await;
    let request = mailroom.request(PeersRequest {});
    let peers = mailroom.client.peers(request).await.unwrap().into_inner().peers;
    assert_eq!(peers.len(), 1);
    assert_eq!((peers[0].server_id.as_str(), peers[0].state.as_str()), (faulty.id.as_str(), "queued"));
    assert_eq!((peers[0].queued, peers[0].inbound_ok_at), (3, 0));
    assert!(peers[0].queued_bytes > 0);
}

#[tokio::test]
async fn a_reader_is_told_when_the_node_stops() {
    let mut node = TestNode::start().await;
    let mut mailroom = Mailroom::of(&node).await;
    let mut stream = mailroom.receive(0).await.unwrap();
    let (told, ()) = tokio::join!(next(&mut stream), node.stop());
    assert_eq!(told.unwrap_err().code(), Code::Unavailable);
}
