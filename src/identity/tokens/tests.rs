//! A token counts until it expires or is revoked.

use super::*;
use futures_util::{FutureExt, StreamExt, stream};

async fn tokens() -> (tempfile::TempDir, Tokens) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    (dir, Tokens::new(store))
}

async fn issue(tokens: &Tokens, ttl: Option<Duration>) -> Issued {
    tokens.issue(&Principal::Gateway("a".into()), None, ttl).await.unwrap()
}

fn header(token: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
    metadata
}

#[tokio::test]
async fn a_token_counts_until_it_is_revoked() {
    let (_dir, tokens) = tokens().await;
    let service = Principal::Service("home".into());
    let issued = tokens.issue(&service, None, None).await.unwrap();
    for _ in 0..2 {
        assert_eq!(tokens.authenticate(&header(&issued.token)).await.unwrap(), service);
    }
    tokens.revoke(&issued.id).await.unwrap();
    let error = tokens.authenticate(&header(&issued.token)).await.unwrap_err();
    assert!(matches!(error, Error::Unauthenticated(_)), "{error}");
    assert!(matches!(tokens.revoke(&issued.id).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn an_expired_token_does_not_count() {
    let (_dir, tokens) = tokens().await;
    let issued = issue(&tokens, Some(Duration::ZERO)).await;
    let error = tokens.authenticate(&header(&issued.token)).await.unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
}

#[tokio::test]
async fn no_token_or_a_strange_one_is_refused() {
    let (_dir, tokens) = tokens().await;
    assert!(matches!(tokens.authenticate(&MetadataMap::new()).await, Err(Error::Unauthenticated(_))));
    for token in ["", "x", &new_token().unwrap()] {
        assert!(matches!(tokens.authenticate(&header(token)).await, Err(Error::Unauthenticated(_))));
    }
}

#[tokio::test]
async fn the_last_use_is_listed() {
    let (_dir, tokens) = tokens().await;
    let issued = issue(&tokens, None).await;
    assert_eq!(tokens.list().await.unwrap()[0].last_used_at, None);
    tokens.authenticate(&header(&issued.token)).await.unwrap();
    assert!(tokens.list().await.unwrap()[0].last_used_at.is_some());
    let stop = CancellationToken::new();
    stop.cancel();
    tokens.clone().run(stop).await;
    assert!(tokens.list().await.unwrap()[0].last_used_at.is_some());
}

#[tokio::test]
async fn a_stream_ends_when_its_own_token_is_revoked() {
    let (_dir, tokens) = tokens().await;
    let service = Principal::Service("home".into());
    let [own, other] =
        [tokens.issue(&service, None, None).await.unwrap(), tokens.issue(&service, None, None).await.unwrap()];
    let items = stream::iter([Ok(1)]).chain(stream::pending());
    let mut open = tokens.until_lapse(&header(&own.token), items);
    assert_eq!(open.next().await.unwrap().unwrap(), 1);
    tokens.revoke(&other.id).await.unwrap();
    assert!(open.next().now_or_never().is_none(), "another one's token");
    tokens.revoke(&own.id).await.unwrap();
    let end = open.next().await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (tonic::Code::Unauthenticated, "authorization: unknown or revoked token"));
    assert!(open.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let (_dir, tokens) = tokens().await;
    let issued = issue(&tokens, Some(Duration::from_millis(100))).await;
    let mut open = tokens.until_lapse(&header(&issued.token), stream::pending::<Result<(), Status>>());
    let end = open.next().await.unwrap().unwrap_err();
    assert!(end.message().contains("expired"), "{end}");
}
