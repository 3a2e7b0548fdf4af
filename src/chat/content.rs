//! What `chat.Chat` calls subject and text, as the core keeps it: a head of
//! JSON values and a content, so that every face of a chat reads the same
//! message. A plain text is a JSON string.
//!
//! Pure.

use crate::proto::pillarbox::chat::v1::Head;
use bytes::Bytes;
use prost::Message;

const SUBJECT: &str = "subject";
const MIME: &str = "mime";

/// Head and content of a plain text; no subject: no head.
pub fn of_text(subject: &str, text: &str) -> (Bytes, Bytes) {
    let head = match subject.is_empty() {
        true => Bytes::new(),
        false => Head { values: [(SUBJECT.to_owned(), json(subject))].into() }.encode_to_vec().into(),
    };
    (head, json(text))
}

/// Subject and text of a message, whichever face it came by: of a formatted
/// text its plain form, of anything else its JSON.
pub fn to_text(head: &Bytes, content: &Bytes) -> (String, String) {
    let head = Head::decode(head.clone()).unwrap_or_default();
    let subject = head.values.get(SUBJECT).and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
    if let Ok(text) = serde_json::from_slice::<String>(content) {
        return (subject, text);
    }
    let formatted = head.values.contains_key(MIME);
    let value = serde_json::from_slice::<serde_json::Value>(content).ok().filter(|_| formatted);
    let plain = value.as_ref().and_then(|value| value.get("txt")).and_then(|text| text.as_str());
    (subject, plain.map_or_else(|| String::from_utf8_lossy(content).into_owned(), str::to_owned))
}

fn json(text: &str) -> Bytes {
    serde_json::to_vec(text).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_and_text_come_back_as_they_were() {
        for (subject, text) in [("", "hi"), ("news", "a \"b\" \\ \n é 🏛"), ("\"", " "), ("s", "\u{0}\u{7f}")] {
            let (head, content) = of_text(subject, text);
            assert_eq!(to_text(&head, &content), (subject.to_owned(), text.to_owned()));
        }
        assert!(of_text("", "x").0.is_empty());
    }

    #[test]
    fn a_message_of_another_face_is_shown_as_well_as_can_be() {
        let head: Bytes = Head { values: [("mime".into(), json("text/x-drafty"))].into() }.encode_to_vec().into();
        let drafty = Bytes::from_static(br#"{"txt":"bold","fmt":[{"len":4,"tp":"ST"}]}"#);
        assert_eq!(to_text(&head, &drafty).1, "bold");
        assert_eq!(to_text(&Bytes::new(), &Bytes::from_static(b"{\"a\":1}")).1, "{\"a\":1}");
        assert_eq!(to_text(&Bytes::from_static(b"\xff"), &Bytes::from_static(b"\xff")).1, "\u{fffd}");
    }
}
