# The steps of .ci/run, one by one. `just ci` is all of them.

default: ci

fmt:
    cargo fmt --check

lint:
    cargo clippy --locked --all-targets -- -D warnings

test:
    cargo test --locked

# More seeds than CI takes: just sim 1000000
sim seeds="100000":
    SEEDS={{seeds}} cargo test --locked --release --test sim

# Threshold signatures across three nodes, one of which is killed.
examples:
    cargo run --locked --release --example frost
    cargo run --locked --release --example cggmp

doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --features round-based

# Licences, bans and sources; the advisory database is not asked.
deny:
    cargo deny --locked check licenses bans sources

ci:
    .ci/run
