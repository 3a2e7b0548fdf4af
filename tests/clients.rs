//! A stock Harmony peer written with another stack, from the contracts alone:
//! Python with grpcio, and plain HTTP or h2 for hRPC. The programs stand in
//! `clients/`; each test starts a node and lets one scenario play with it.
//!
//! They need python3 with grpcio, grpcio-tools, cryptography and h2, or
//! `PILLARBOX_TEST_PYTHON`, which names a Python that has them; the gateway's
//! page also selenium, Chromium and its driver. Where there is none they are
//! passed over, but under `CI=true` they fail.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "common/process.rs"]
mod process;

use process::NodeProcess;
use std::{env, ffi::OsString, path::Path, process::Command, sync::OnceLock};

/// Short pauses, so that an outage is noticed at once.
const QUICK: [(&str, &str); 4] = [
    ("FEDERATION__PUSH_RETRIES", "2"),
    ("FEDERATION__RETRY_BASE", "20ms"),
    ("FEDERATION__RETRY_MAX", "100ms"),
    ("FEDERATION__PULL_INTERVAL", "1s"),
];
/// Nothing settles by the time that passes.
const NEVER_BY_TIME: (&str, &str) = ("FEDERATION__STOCK_SETTLE", "60s");
const SOON: (&str, &str) = ("FEDERATION__STOCK_SETTLE", "300ms");

/// A Python that can run the programs.
fn python() -> Option<&'static OsString> {
    static FOUND: OnceLock<Option<OsString>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        if let Some(named) = env::var_os("PILLARBOX_TEST_PYTHON") {
            return Some(named);
        }
        let imports = ["-c", "import grpc, grpc_tools, cryptography, h2"];
        let able = Command::new("python3").args(imports).output().is_ok_and(|output| output.status.success());
        able.then(|| "python3".into())
    });
    if found.is_none() {
        let what = "no Python with grpcio, grpcio-tools, cryptography and h2 (see PILLARBOX_TEST_PYTHON)";
        assert!(env::var("CI").as_deref() != Ok("true"), "{what}");
        eprintln!("passed over: {what}");
    }
    found.as_ref()
}

/// Whether the page of the gateway can be looked at in a browser.
fn browser(python: &OsString) -> bool {
    let runs = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let named = |variable: &str, default: &str| env::var(variable).unwrap_or_else(|_| default.to_owned());
    let there = runs(&named("PILLARBOX_TEST_CHROMIUM", "/usr/bin/chromium"), &["--version"])
        && runs(&named("PILLARBOX_TEST_CHROMEDRIVER", "/usr/bin/chromedriver"), &["--version"])
        && Command::new(python).args(["-c", "import selenium"]).output().is_ok_and(|output| output.status.success());
    if !there {
        let what = "no /usr/bin/chromium and /usr/bin/chromedriver (see PILLARBOX_TEST_CHROMIUM, \
                    PILLARBOX_TEST_CHROMEDRIVER), or no selenium in Python";
        assert!(env::var("CI").as_deref() != Ok("true"), "{what}");
        eprintln!("passed over: {what}");
    }
    there
}

fn run(python: &OsString, arguments: impl IntoIterator<Item = OsString>) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/run.py");
    let output = Command::new(python).arg("-B").arg(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
}

/// Starts a node that trusts the authority of the programs and plays `name`.
fn play(name: &str, settle: (&str, &str)) {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let certificates = dir.path().join("certificates");
    run(python, ["certificates".into(), certificates.clone().into()]);
    let authority = certificates.join("ca.pem");
    let mut settings = QUICK.to_vec();
    settings.extend([settle, ("FEDERATION__CA_FILE", authority.to_str().unwrap())]);
    let node = NodeProcess::start(&dir.path().join("node"), &settings);
    let arguments: [(&str, OsString); 6] = [
        ("--binary", env!("CARGO_BIN_EXE_pillarbox").into()),
        ("--data-dir", node.dir().into()),
        ("--server-id", node.server_id.clone().into()),
        ("--key", node.key.clone().into()),
        ("--listen", node.listen.clone().into()),
        ("--certificates", certificates.into()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.into(), value]);
    run(python, [OsString::from(name)].into_iter().chain(arguments));
}

#[test]
fn the_copy_of_the_contract_has_nothing_of_ours() {
    let Some(python) = python() else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/contracts.txt");
    run(python, ["contract_is_stock".into(), "--golden".into(), golden.into()]);
}

#[test]
fn a_grpcio_peer_gets_every_kind_in_order_and_can_verify_who_sent_it() {
    play("pushed_to_peer", SOON);
}

#[test]
fn a_grpcio_peer_that_was_away_pulls_10_mib_in_pages_and_is_live_again() {
    play("drained", SOON);
}

#[test]
fn an_answer_that_a_grpcio_peer_did_not_take_is_given_again() {
    play("unsettled", NEVER_BY_TIME);
}

#[test]
fn a_second_pull_beside_an_unwritten_answer_settles_nothing() {
    play("two_at_once", NEVER_BY_TIME);
}

#[test]
fn an_answer_settles_when_its_connection_lives_on() {
    play("settled_by_time", SOON);
}

#[test]
fn what_a_grpcio_peer_pushes_is_applied_in_order() {
    play("pushed_by_peer", SOON);
}

#[test]
fn what_a_grpcio_peer_hands_over_in_a_pull_is_applied_before_later_pushes() {
    play("pulled_from_peer", SOON);
}

#[test]
fn calls_of_a_grpcio_peer_that_are_refused_say_why() {
    play("refusals", SOON);
}

#[test]
fn a_new_key_of_a_grpcio_peer_is_learnt() {
    play("new_key", SOON);
}

#[test]
fn a_grpcio_peer_hears_of_a_renamed_node_before_anything_else_comes_from_it() {
    play("told_new_id", NEVER_BY_TIME);
}

#[test]
fn a_grpcio_peer_that_renames_itself_is_known_under_its_new_id() {
    play("tells_new_id", SOON);
}

#[test]
fn a_peer_that_speaks_hrpc_is_found_out_by_key_and_served() {
    play("hrpc_delivers", SOON);
}

#[test]
fn errors_of_an_hrpc_peer_are_retried_or_not_as_they_say() {
    play("hrpc_errors_of_peer", SOON);
}

#[test]
fn an_hrpc_peer_that_was_away_drains_its_queue_and_loses_nothing() {
    play("hrpc_drained", NEVER_BY_TIME);
}

#[test]
fn an_hrpc_client_is_answered_with_the_headers_and_errors_of_the_document() {
    play("hrpc_client", SOON);
}

#[test]
fn an_hrpc_client_may_speak_http2() {
    play("hrpc_over_http2", NEVER_BY_TIME);
}

#[test]
fn a_peer_may_change_its_protocol() {
    play("changes_its_protocol", SOON);
}

#[test]
fn grpcio_parties_sign_through_the_router() {
    play("parties", SOON);
}

#[test]
fn grpcio_users_chat() {
    play("talkers", SOON);
}

#[test]
fn a_grpcio_gateway_misses_nothing_and_hears_of_sessions_that_end() {
    play("gateway", SOON);
}

#[test]
fn python_verifies_transcripts_and_evidence_from_the_documented_bytes() {
    play("evidence", SOON);
}

#[test]
fn python_verifies_a_gateways_envelope_from_the_documented_bytes() {
    play("gateway_envelope", SOON);
}

#[test]
fn the_gateways_page_in_chromium_logs_in_shows_events_and_is_cut_off() {
    if python().is_some_and(browser) {
        play("gateway_page", SOON);
    }
}
