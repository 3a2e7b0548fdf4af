//! The page at `/`: one file with its style and script, and the policy that
//! lets a browser run exactly those.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

pub const HTML: &str = include_str!("page.html");

/// The content security policy: this style, this script, this gateway.
pub fn policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let (style, script) = (digest("style"), digest("script"));
        let text = format!(
            "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'"
        );
        HeaderValue::from_str(&text).expect("base64 and the words above are visible ASCII")
    });
    POLICY.clone()
}

/// Of what stands between the tags.
fn digest(tag: &str) -> String {
    let inside = || HTML.split_once(&format!("<{tag}>"))?.1.split_once(&format!("</{tag}>"));
    let (text, _) = inside().expect("the page has one style and one script, a test sees to that");
    STANDARD.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_file_with_one_style_and_one_script() {
        for tag in ["<style>", "</style>", "<script>", "</script>"] {
            assert_eq!(HTML.matches(tag).count(), 1, "{tag}");
        }
        assert!(policy().to_str().unwrap().contains("script-src 'sha256-"));
        for outside in ["http://", "https://", " src=", "@import", " onclick=", " style="] {
            assert!(!HTML.contains(outside), "{outside}");
        }
    }
}
