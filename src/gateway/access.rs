//! Who a request says it is, and from which page it comes. Pure.
//!
//! Reads headers and the query; never keeps or shows a token.

/// Of which page a request says that it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No browser, or a page of the gateway's own.
    Own,
    /// A page that the operator allowed.
    Allowed,
    Foreign,
}

/// The token of `authorization: Bearer …`, else of `?token=`.
pub fn token(authorization: Option<&str>, query: Option<&str>) -> Option<String> {
    match authorization {
        Some(value) => {
            let (scheme, rest) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim().to_owned())
        }
        None => parameter(query, "token"),
    }
    .filter(|token| !token.is_empty())
}

/// A parameter of a query as browsers write it; the first of its name.
pub fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query?.as_bytes());
    pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

/// `host`: as the request names this gateway. A page's own requests name the
/// host it came from.
pub fn origin(origin: Option<&str>, host: Option<&str>, allowed: &[String]) -> Origin {
    let Some(origin) = origin else { return Origin::Own };
    if allowed.iter().any(|one| one.eq_ignore_ascii_case(origin)) {
        return Origin::Allowed;
    }
    let same = origin.split_once("://").is_some_and(|(scheme, page)| {
        let bare = |host: &str| {
            let port = if scheme == "https" { ":443" } else { ":80" };
            host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase()
        };
        matches!(scheme, "http" | "https") && host.is_some_and(|host| bare(host) == bare(page))
    });
    if same { Origin::Own } else { Origin::Foreign }
}

/// What `--allow-origin` takes: `https://app.example`, with a port if it has
/// one, and nothing behind it.
pub fn check_origin(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is no origin; write it like https://app.example or http://localhost:3000");
    let lower = text.to_ascii_lowercase();
    let (scheme, host) = lower.split_once("://").ok_or_else(bad)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if !matches!(scheme, "http" | "https") || host.is_empty() || !host.chars().all(plain) {
        return Err(bad());
    }
    Ok(lower)
}

#[cfg(test)]
mod tests;
