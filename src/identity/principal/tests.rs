//! Principals and tokens read as they are written, or are refused.

use super::*;

#[test]
fn a_principal_reads_as_it_is_written() {
    for text in ["party:Zoë", "user:Zo.e_-1", "gateway:g:1", "service:x@y:1", "admin:root"] {
        assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
    }
    let (party, user) = (format!("party:{}", "a".repeat(257)), format!("user:{}", "a".repeat(65)));
    for text in ["", "party", "party:", "root:a", "party:a b", "party:a\n", &party, "user:a@b", "user:Zoë", &user] {
        assert!(text.parse::<Principal>().is_err(), "{text:?}");
    }
}

#[test]
fn only_a_whole_token_has_a_hash() {
    let token = new_token().unwrap();
    assert_eq!(token.len(), 4 + 43);
    assert!(token_hash(&token).is_some());
    assert_ne!(token_hash(&token), token_hash(&new_token().unwrap()));
    for bad in ["", "pbt_", "pbt_abc", &token[4..], &token[..46]] {
        assert_eq!(token_hash(bad), None, "{bad}");
    }
}

#[test]
fn the_scheme_word_is_bearer_in_any_case() {
    assert_eq!(bearer("Bearer abc"), Some("abc"));
    assert_eq!(bearer("bearer  abc "), Some("abc"));
    assert_eq!(bearer("Basic abc"), None);
    assert_eq!(bearer("abc"), None);
}
