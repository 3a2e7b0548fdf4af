//! The file on a real disk.

use super::*;

fn saved(dir: &Path) -> Saved {
    Saved { path: dir.join("web.cursor"), backend: "https://a.example:1".into(), gateway: "web".into() }
}

const MARK: Mark = Mark { start: Cursor(3), cursor: Cursor(7) };

#[test]
fn what_was_written_is_read_again_and_nothing_else_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let saved = saved(dir.path());
    assert_eq!(saved.read().unwrap(), None);
    saved.write(MARK).unwrap();
    saved.write(Mark { cursor: Cursor(8), ..MARK }).unwrap();
    assert_eq!(saved.read().unwrap(), Some(Mark { cursor: Cursor(8), ..MARK }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_cursor_of_another_backend_or_gateway_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let saved = saved(dir.path());
    saved.write(MARK).unwrap();
    assert_eq!(Saved { backend: "https://b.example:1".into(), ..saved.clone() }.read().unwrap(), None);
    assert_eq!(Saved { gateway: "other".into(), ..saved }.read().unwrap(), None);
}

#[test]
fn a_file_of_something_else_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let saved = saved(dir.path());
    let reversed = r#"{"backend":"https://a.example:1","gateway":"web","start":"00000000000000000009","cursor":"00000000000000000008"}"#;
    for text in ["", "7", "{}", reversed] {
        fs::write(&saved.path, text).unwrap();
        let error = saved.read().unwrap_err().to_string();
        assert!(error.contains("web.cursor") && error.contains("remove it"), "{error}");
    }
}

#[tokio::test]
async fn the_last_mark_is_on_disk_when_the_keeper_ends() {
    let dir = tempfile::tempdir().unwrap();
    let saved = saved(dir.path());
    let (marks, kept) = watch::channel(None);
    let keeper = tokio::spawn(saved.clone().keep(kept));
    for cursor in 7..=50 {
        marks.send_replace(Some(Mark { cursor: Cursor(cursor), ..MARK }));
        tokio::task::yield_now().await;
    }
    drop(marks);
    keeper.await.unwrap();
    assert_eq!(saved.read().unwrap(), Some(Mark { cursor: Cursor(50), ..MARK }));
}
